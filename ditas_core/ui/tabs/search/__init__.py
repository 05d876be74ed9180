"""The search of alpha, and recipes changed by hand."""
