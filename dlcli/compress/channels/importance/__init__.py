"""Importance of channels: which ones a model can do without; a measure is a function of this package."""
