"""What is wrong with a machine, why, and the command that mends it: a registered function a cause."""
