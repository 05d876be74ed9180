"""Slow, independent procedures that the library is measured against."""
