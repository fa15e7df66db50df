"""Pulls by real clients."""
