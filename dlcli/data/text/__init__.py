"""Texts with a label: reading and tokens."""
