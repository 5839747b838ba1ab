"""TODO dlcli/deploy."""
