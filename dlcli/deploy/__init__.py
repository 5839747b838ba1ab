"""From a trained model to a file that ships: export, quantize and prune, each measured before and after."""
