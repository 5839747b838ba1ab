"""Image sets that are installed with other packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dlcli.data.kinds import DataListing
from dlcli.data.sets.named import DATASETS, NamedSet, array_listing

DIGITS = tuple(str(digit) for digit in range(10))


def _read_digits(root: Path) -> DataListing:
    """Read the 1,797 digits (8x8) of scikit-learn, with values scaled from 0..16 to 0..255."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return array_listing(DIGITS, {"all": (pixels, labels)}, source="digits")


DATASETS.register("digits")(NamedSet(read=_read_digits))
