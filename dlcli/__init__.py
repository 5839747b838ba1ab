"""dlcli: train, evaluate, export and inspect deep learning models from the command line."""

__version__ = "0.2.0"
