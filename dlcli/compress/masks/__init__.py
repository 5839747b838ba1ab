"""Unstructured pruning: masks that set weights to zero; a method is a function of this package."""
