"""Optimizers, learning rate schedules, and which parameters are frozen when."""
