"""A text to read and a text to write."""
