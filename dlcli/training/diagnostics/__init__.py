"""TODO dlcli/training/diagnostics."""
