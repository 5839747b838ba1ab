"""What only trials can tell: batch size, learning rate, and what a run would cost."""
