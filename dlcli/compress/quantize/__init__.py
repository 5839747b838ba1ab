"""Integer weights and activations: where they go in a graph or a module, and how they are computed."""
