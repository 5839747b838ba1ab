"""Hints: what a run's own figures say is going wrong, with their evidence."""
