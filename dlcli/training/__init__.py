"""The training core: it takes tensors and settings, emits events, and prints nothing."""
