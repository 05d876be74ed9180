"""Methods at equal bits: the front, two of its recipes, and the same live."""
