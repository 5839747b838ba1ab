"""Quantization of ONNX graphs, and fake quantization of modules."""
