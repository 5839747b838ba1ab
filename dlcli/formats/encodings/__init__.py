"""Ways to store tensors smaller than they are used: one file each."""
