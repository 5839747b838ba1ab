"""Data sets that come with the installed packages and need no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dlcli.data.kinds import DataListing
from dlcli.data.sets.named import DATASETS, NamedSet, arrays

DIGITS = tuple(str(digit) for digit in range(10))


def _read_digits(root: Path) -> DataListing:
    """scikit-learn's 1,797 scanned digits of 8x8 pixels, whose values 0 to 16 become 0 to 255."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return arrays(DIGITS, {"all": (pixels, labels)}, source="digits")


DATASETS.register("digits")(NamedSet(read=_read_digits))
