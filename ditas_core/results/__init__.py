"""Everything that is made from the shipped checkpoints: ``make results``, ``make contests``."""
