"""Ways to make a model smaller: one file a method. What they did is measured by `dlcli.training`."""
