"""TODO dlcli/compress/quantize."""
