"""What encoded tensors take."""

from __future__ import annotations

import math
from collections.abc import Sequence


def encoded_bytes(shape: Sequence[int], bits: int, group_size: int) -> int:
    """Bytes of codes, scales and shape of a weight that is stored in groups."""
    count, rows = math.prod(shape), shape[0]
    groups = math.ceil(count / rows / group_size)
    return math.ceil(count * bits / 8) + 2 * rows * groups + 8 * len(shape)
