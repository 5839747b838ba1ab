"""Tensors with many zeros stored as their other values and where these are. Bit for bit.

By tensor, whichever is smallest: as it is; a bit for each place (``bits``); or the number of zeros in
front of each value in a byte (``gaps``, as in Han et al., arXiv:1510.00149: a longer gap holds a stored
zero every 256 places). Bits are the smaller below about 88 % zeros. A zero is an element whose bits are
all 0; -0.0 is a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dlcli import transforms
from dlcli.formats.encodings.base import PACKINGS, Packing

VALUES, BITS, GAPS, SHAPE = ":values", ":bits", ":gaps", ":shape"
_HEADER = 160  # bytes that two more names cost in the file
_LONGEST = 256  # places that one byte can go on
_WORDS: dict[int, type[np.unsignedinteger[Any]]] = {
    1: np.uint8,
    2: np.uint16,
    4: np.uint32,
    8: np.uint64,
}


def pack(tensors: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Each tensor as it is, or as ``NAME:values``, ``NAME:bits`` or ``NAME:gaps``, and ``NAME:shape``.

    ``args`` are not needed. Raises: ValueError for a name that ends as those do.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith((VALUES, BITS, GAPS, SHAPE)):
            raise ValueError(f"a tensor called {name} cannot be stored sparse")
        found |= _smallest(name, tensor.detach().cpu())
    return found


def unpack(tensors: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors that `pack` was given. Raises: ValueError when the stored ones do not fit."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(VALUES):
            own = name.removesuffix(VALUES)
            found[own] = _restore(own, tensor, tensors)
        elif not name.endswith((BITS, GAPS, SHAPE)):
            found[name] = tensor
    return found


def _smallest(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    size = tensor.element_size()
    dense = tensor.numel() * size
    if size not in _WORDS or dense <= _HEADER:
        return {name: tensor}
    flat = tensor.contiguous().reshape(-1)
    words = flat.view(torch.uint8).numpy().view(_WORDS[size])
    places = np.flatnonzero(words)
    steps = np.diff(places, prepend=-1) - 1  # zeros in front of each value
    entries = len(places) + int((steps // _LONGEST).sum())
    by_bits = math.ceil(len(words) / 8) + len(places) * size
    by_gaps = entries * (1 + size)
    if min(by_bits, by_gaps) + _HEADER + 8 * tensor.ndim >= dense:
        return {name: tensor}
    if by_bits <= by_gaps:
        kept, where, suffix = words[places], np.packbits(words != 0), BITS
    else:
        kept, where = _gaps(words[places], steps, entries)
        suffix = GAPS
    values = torch.from_numpy(kept.view(np.uint8)).view(tensor.dtype)
    return {
        name + VALUES: values,
        name + suffix: torch.from_numpy(where),
        name + SHAPE: torch.tensor(tensor.shape, dtype=torch.int64),
    }


def _gaps(
    values: npt.NDArray[Any], steps: npt.NDArray[np.int64], entries: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Values (entries,), with a stored zero for each 256 places of a long gap, and the gaps."""
    last = np.cumsum(steps // _LONGEST + 1) - 1  # where each value comes to lie behind its zeros
    kept = np.zeros(entries, dtype=values.dtype)
    gaps = np.full(entries, _LONGEST - 1, dtype=np.uint8)
    kept[last], gaps[last] = values, steps % _LONGEST
    return kept, gaps


def _restore(name: str, values: torch.Tensor, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    shape = stored.get(name + SHAPE)
    bits, gaps = stored.get(name + BITS), stored.get(name + GAPS)
    if shape is None or (bits is None) == (gaps is None):
        raise ValueError(f"{name} is stored sparse, and a part of it is missing")
    where = [tensor for tensor in (bits, gaps) if tensor is not None]
    if any(t.dtype != torch.uint8 or t.ndim != 1 for t in where) or shape.ndim != 1:
        raise ValueError(f"{name} is stored sparse, and its places are no list of bytes")
    if values.element_size() not in _WORDS:
        raise ValueError(f"{name} is stored sparse in a type that is not known: {values.dtype}")
    size = tuple(int(n) for n in shape)
    total = math.prod(size)
    words = values.reshape(-1).view(torch.uint8).numpy().view(_WORDS[values.element_size()])
    if bits is not None:
        if min(size, default=0) < 0 or len(bits) != math.ceil(total / 8):
            raise ValueError(f"{name} is stored sparse, and its shape does not fit its bits")
        places = np.flatnonzero(np.unpackbits(bits.numpy(), count=total))
    else:
        assert gaps is not None
        places = np.cumsum(gaps.numpy().astype(np.int64) + 1) - 1
    if min(size, default=0) < 0 or len(places) != len(words) or (len(places) and places[-1] >= total):
        raise ValueError(f"{name} is stored sparse, and its values do not fit its shape")
    found = np.zeros(total, dtype=words.dtype)
    found[places] = words
    return torch.from_numpy(found.view(np.uint8)).view(values.dtype).reshape(size)


PACKINGS.register(transforms.SPARSE)(Packing(pack=pack, unpack=unpack, exact=True, last=True))
