"""What stands before the page: the gate, limits, checks of what arrives, errors, cleaning up."""
