"""Bytes and facts, on disk and in memory."""
