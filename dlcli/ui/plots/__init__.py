"""TODO dlcli/ui/plots."""
