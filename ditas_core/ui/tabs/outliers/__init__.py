"""The outlier atlas."""
