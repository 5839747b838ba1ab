"""What `dlcli train` is made of: beginning, resuming, joining and reporting a run."""
