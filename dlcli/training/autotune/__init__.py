"""Trials: batch size and learning rate for ``auto``, memory and time for ``--dry-run``."""
