"""TODO dlcli/evaluation/baselines."""
