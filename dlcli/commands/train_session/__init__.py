"""The parts of `dlcli train`: begin, resume, join, run and report."""
