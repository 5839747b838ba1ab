"""Tables: reading, target inference and column encoders."""
