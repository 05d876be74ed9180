"""What the visitors share, what one of them has, whose turn it is, and the jobs they start."""
