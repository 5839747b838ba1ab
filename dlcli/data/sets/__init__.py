"""Registered data sets and their download."""
