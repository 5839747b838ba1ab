"""Measure any model file on a split. No module here imports torch."""
