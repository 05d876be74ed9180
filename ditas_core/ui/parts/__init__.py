"""Pieces that several tabs share: the bar, jobs with progress, words, checks, messages."""
