"""TODO dlcli/training/loop."""
