"""TODO dlcli/formats/onnx."""
