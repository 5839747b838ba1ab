"""Image augmentation as a function of seed, epoch and sample."""
