"""Optimizers, learning rate schedules, and freezing of parameters."""
