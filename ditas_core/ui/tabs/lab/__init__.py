"""One layer and one slider."""
