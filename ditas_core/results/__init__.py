"""Everything that is made from the shipped checkpoints, made anew: ``make results``."""
