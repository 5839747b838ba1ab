"""`dlcli prune`: remove, fine-tune and measure, step by step."""
