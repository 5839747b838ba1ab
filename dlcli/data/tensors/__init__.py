"""Tensors as they are: one or several for each sample, for models that take just these."""
