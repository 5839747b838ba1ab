"""Tensors with many zeros stored as their nonzero values and the positions of these. Lossless.

By tensor, whichever is smallest: unchanged; a bit for each element (``bits``); or the number of zeros
before each value in a byte (``gaps``, as in Han et al., arXiv:1510.00149: a longer gap holds a stored
zero every 256 elements). Bits are the smaller below about 88 % zeros. A zero is an element whose bits
are all 0; -0.0 is a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dlcli import transforms
from dlcli.formats.encodings.base import ENCODINGS, Encoding

VALUES, BITS, GAPS, SHAPE = ":values", ":bits", ":gaps", ":shape"
_HEADER_BYTES = 160  # that two more names cost in the file
_LONGEST_GAP = 256
_WORDS: dict[int, type[np.unsignedinteger[Any]]] = {
    1: np.uint8,
    2: np.uint16,
    4: np.uint32,
    8: np.uint64,
}


def encode(tensors: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Each tensor unchanged, or as ``NAME:values``, ``NAME:bits`` or ``NAME:gaps``, and ``NAME:shape``.

    ``args`` are not used. Raises: ValueError for a name that ends as those do.
    """
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith((VALUES, BITS, GAPS, SHAPE)):
            raise ValueError(f"a tensor called {name} cannot be stored sparse")
        stored |= _smallest(name, tensor.detach().cpu())
    return stored


def decode(stored: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors that `encode` was given. Raises: ValueError when the stored ones do not fit."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(VALUES):
            own = name.removesuffix(VALUES)
            tensors[own] = _dense(own, tensor, stored)
        elif not name.endswith((BITS, GAPS, SHAPE)):
            tensors[name] = tensor
    return tensors


def _smallest(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """The smallest of the three ways to store a tensor."""
    size = tensor.element_size()
    dense = tensor.numel() * size
    if size not in _WORDS or dense <= _HEADER_BYTES:
        return {name: tensor}
    flat = tensor.contiguous().reshape(-1)
    words = flat.view(torch.uint8).numpy().view(_WORDS[size])
    indices = np.flatnonzero(words)
    gaps = np.diff(indices, prepend=-1) - 1  # zeros before each value
    entries = len(indices) + int((gaps // _LONGEST_GAP).sum())
    by_bits = math.ceil(len(words) / 8) + len(indices) * size
    by_gaps = entries * (1 + size)
    if min(by_bits, by_gaps) + _HEADER_BYTES + 8 * tensor.ndim >= dense:
        return {name: tensor}
    if by_bits <= by_gaps:
        values, positions, suffix = words[indices], np.packbits(words != 0), BITS
    else:
        values, positions = _by_gaps(words[indices], gaps, entries)
        suffix = GAPS
    return {
        name + VALUES: torch.from_numpy(values.view(np.uint8)).view(tensor.dtype),
        name + suffix: torch.from_numpy(positions),
        name + SHAPE: torch.tensor(tensor.shape, dtype=torch.int64),
    }


def _by_gaps(
    values: npt.NDArray[Any], gaps: npt.NDArray[np.int64], entries: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Values (entries,), with a stored zero for each 256 elements of a long gap, and the gaps."""
    last = np.cumsum(gaps // _LONGEST_GAP + 1) - 1  # the entry of each value, after its stored zeros
    stored = np.zeros(entries, dtype=values.dtype)
    stored_gaps = np.full(entries, _LONGEST_GAP - 1, dtype=np.uint8)
    stored[last], stored_gaps[last] = values, gaps % _LONGEST_GAP
    return stored, stored_gaps


def _dense(name: str, values: torch.Tensor, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The tensor with its zeros. Raises: ValueError when its parts do not fit."""
    shape = stored.get(name + SHAPE)
    bits, gaps = stored.get(name + BITS), stored.get(name + GAPS)
    if shape is None or (bits is None) == (gaps is None):
        raise ValueError(f"{name} is stored sparse, and a part of it is missing")
    positions = [tensor for tensor in (bits, gaps) if tensor is not None]
    if any(t.dtype != torch.uint8 or t.ndim != 1 for t in positions) or shape.ndim != 1:
        raise ValueError(f"{name} is stored sparse, and its positions are no list of bytes")
    if values.element_size() not in _WORDS:
        raise ValueError(f"{name} is stored sparse with an unknown dtype: {values.dtype}")
    size = tuple(int(n) for n in shape)
    total = math.prod(size)
    words = values.reshape(-1).view(torch.uint8).numpy().view(_WORDS[values.element_size()])
    if bits is not None:
        if min(size, default=0) < 0 or len(bits) != math.ceil(total / 8):
            raise ValueError(f"{name} is stored sparse, and its shape does not fit its bits")
        indices = np.flatnonzero(np.unpackbits(bits.numpy(), count=total))
    else:
        assert gaps is not None
        indices = np.cumsum(gaps.numpy().astype(np.int64) + 1) - 1
    if min(size, default=0) < 0 or len(indices) != len(words) or (len(indices) and indices[-1] >= total):
        raise ValueError(f"{name} is stored sparse, and its values do not fit its shape")
    dense = np.zeros(total, dtype=words.dtype)
    dense[indices] = words
    return torch.from_numpy(dense.view(np.uint8)).view(values.dtype).reshape(size)


ENCODINGS.register(transforms.SPARSE)(Encoding(encode=encode, decode=decode, lossless=True, last=True))
