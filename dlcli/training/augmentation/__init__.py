"""Variation of training images, as a function of seed, epoch and sample."""
