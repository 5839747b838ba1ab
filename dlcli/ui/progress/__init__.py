"""Sinks for the events of a run: the live view, plain lines, metrics.jsonl, TensorBoard."""
