"""Optimizers by name; a new file that registers an optimizer is found by itself."""
