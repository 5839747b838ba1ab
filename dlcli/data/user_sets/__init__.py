"""Data sets of the user's own code: ``--data file.py:NAME``, read as one of the kinds of data."""
