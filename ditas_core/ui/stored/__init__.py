"""Results that are shipped on disk: making, reading and telling them."""
