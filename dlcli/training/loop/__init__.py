"""The training loop: optimizer steps, epoch ends, the training state. No files, no terminal."""
