"""TODO dlcli/evaluation."""
