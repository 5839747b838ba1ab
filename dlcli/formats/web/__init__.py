"""A model in a browser: the format, its page, which `dlcli serve` shows too, and what the page calls."""
