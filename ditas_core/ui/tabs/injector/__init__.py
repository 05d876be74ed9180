"""Injected outliers."""
