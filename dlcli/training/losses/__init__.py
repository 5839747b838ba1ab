"""Training losses: one file a family; a new file that registers a loss is found by itself."""
