"""Data sets of the user's own code: the call, the samples, one reading of all of them."""
