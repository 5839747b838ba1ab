"""Structured pruning: coupled channels, their importance, and their removal."""
