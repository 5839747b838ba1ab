"""TODO dlcli/deploy/prune."""
