"""A cache of very many small objects, and how fast the mirror is on it (``make scale``)."""
