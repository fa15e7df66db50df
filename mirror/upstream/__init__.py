"""Registries, as their client."""
