"""Cards for model files of other programs: what a file says of itself, what its user adds, the copy."""
