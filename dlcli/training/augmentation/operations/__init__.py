"""Image augmentations by name; a new file that registers one is found by itself."""
