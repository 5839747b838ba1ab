"""Trials: the batch size and the learning rate of ``auto``, and what a run would cost."""
