"""Hints: likely problems of a run, derived from its metrics."""
