"""Full precision beside several recipes."""
