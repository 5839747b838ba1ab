"""Tables: reading them, deciding their target, encoding their columns."""
