"""`make bench`: the mirror and its peers, measured side by side."""
