"""Training losses, one file per family; a new file here that registers one is imported automatically."""
