"""Whole series with a label, and long series to forecast."""
