"""The story of a checkpoint in one screen."""
