"""From a trained model to a folder for its target: what was tried, measured, chosen and written."""
