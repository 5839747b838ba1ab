"""TODO dlcli/compress/channels."""
