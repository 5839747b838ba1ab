"""TODO dlcli/ui/progress."""
