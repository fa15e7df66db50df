"""The parts of HTTP that the mirror decides with, as pure functions."""
