"""TODO dlcli/runs."""
