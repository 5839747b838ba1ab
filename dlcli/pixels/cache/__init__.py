"""A cache of decoded pixels on disk, shared by the runs and processes of a user."""
