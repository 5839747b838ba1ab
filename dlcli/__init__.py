"""dlcli: train, evaluate, export and inspect deep learning models from the command line."""

__version__ = "0.1.0"
