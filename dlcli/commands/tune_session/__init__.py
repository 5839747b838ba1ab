"""The parts of `dlcli tune`: begin, resume, work, and the end."""
