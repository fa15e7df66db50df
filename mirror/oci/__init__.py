"""The OCI distribution protocol as values and pure functions."""
