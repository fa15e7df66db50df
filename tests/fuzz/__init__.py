"""Fuzzing of a running mirror, from both sides: ``python -m tests.fuzz``."""
