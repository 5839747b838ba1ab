"""TODO dlcli/commands/train_session."""
