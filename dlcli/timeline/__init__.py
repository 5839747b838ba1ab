"""Series in time: the times of rows, their order, and gaps in their values. NumPy and polars only."""
