"""Where it breaks: parts of a model, and bits under a budget."""
