"""Command line: thin, no maths."""

from .main import main

__all__ = ["main"]
