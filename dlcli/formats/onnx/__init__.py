"""ONNX: the format, its file, its export, and what is done to a graph after it."""
