"""From a trained model to a file to deploy: export, quantize, prune, each measured before and after."""
