"""Compression methods: pruning and quantization of a module or an ONNX graph, without measuring it."""
