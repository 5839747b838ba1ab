"""TODO dlcli/deploy/quantize."""
