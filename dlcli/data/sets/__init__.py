"""Data sets that are known by a name, and how they get onto the disk."""
