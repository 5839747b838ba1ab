"""Weights stored as integers of 8 or 4 bits, with a scale for each group; float32 again when loaded.

A weight is seen as rows, one for each index of its first dimension; a group is ``size`` numbers of a
row, the last one of a row being shorter. Quantization is symmetric: codes of -127 to 127, or -7 to 7,
times the scale. The scale is a bfloat16, rounded away from 0: no number moves by more than half a scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from dlcli import transforms
from dlcli.formats.encodings.base import ENCODINGS, Encoding

CODES, SCALES, SHAPE = ":codes", ":scales", ":size"
_MIN_NUMBERS = 64  # of a weight; two more tensors are not worth it for fewer


def encode(tensors: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Weights of two dimensions and more as ``NAME:codes`` (uint8, flat), ``:scales`` and ``:size``.

    ``args``: ``bits`` (4 or 8), ``group_size``, and in ``skip`` the names of tensors that stay
    unchanged, as do weights that are not finite. Raises: ValueError for other bits.
    """
    bits, size, skip = int(args["bits"]), int(args["group_size"]), set(args.get("skip", ()))
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name not in skip and is_encoded(tensor):
            codes, scales = _quantize(tensor, bits, size)
            stored[name + CODES] = codes
            stored[name + SCALES] = scales
            stored[name + SHAPE] = torch.tensor(tensor.shape, dtype=torch.int64)
        else:
            stored[name] = tensor
    return stored


def decode(stored: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The rounded weights. Raises: ValueError when codes, scales and shapes do not fit each other."""
    bits, size = int(args["bits"]), int(args["group_size"])
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(CODES):
            own = name.removesuffix(CODES)
            scales, shape = stored.get(own + SCALES), stored.get(own + SHAPE)
            if scales is None or shape is None:
                raise ValueError(f"{own} is stored in groups, and a part of it is missing")
            tensors[own] = _dequantize(own, tensor, scales, [int(n) for n in shape], bits, size)
        elif not name.endswith((SCALES, SHAPE)):
            tensors[name] = tensor
    return tensors


def is_encoded(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a weight that is stored in groups."""
    return (
        tensor.dtype == torch.float32
        and tensor.ndim > 1
        and tensor.numel() >= _MIN_NUMBERS
        and bool(tensor.isfinite().all())
    )


def _quantize(weight: torch.Tensor, bits: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (uint8, flat; two 4-bit codes a byte) and scales (rows, groups) in bfloat16."""
    largest = _largest_code(bits)
    rows = _in_groups(weight.reshape(len(weight), -1), size)  # (rows, groups, size)
    scales = _rounded_up(rows.abs().amax(dim=2) / largest)
    steps = rows / torch.where(scales == 0, 1.0, scales)[..., None]
    codes = steps.round().clamp(-largest, largest).to(torch.int8)
    flat = codes.flatten(1)[:, : weight[0].numel()].reshape(-1).view(torch.uint8)
    return (_pack_4_bits(flat) if bits == 4 else flat.clone()), scales.to(torch.bfloat16)


def _dequantize(
    name: str, codes: torch.Tensor, scales: torch.Tensor, shape: list[int], bits: int, size: int
) -> torch.Tensor:
    _largest_code(bits)
    rows = shape[0] if shape else 0
    columns = math.prod(shape) // rows if rows > 0 else 0
    expected = math.ceil(rows * columns * bits / 8)
    if min(shape, default=0) < 1 or len(codes) != expected:
        raise ValueError(f"{name} is stored in groups, and its shape does not fit its codes")
    if list(scales.shape) != [rows, math.ceil(columns / size)]:
        raise ValueError(f"{name} is stored in groups, and its scales do not fit its shape")
    flat = _unpack_4_bits(codes, rows * columns) if bits == 4 else codes.view(torch.int8)
    grouped = _in_groups(flat.float().view(rows, columns), size)
    weight = (grouped * scales.float()[..., None]).flatten(1)[:, :columns]
    return weight.reshape(shape)


def _largest_code(bits: int) -> int:
    if bits not in (4, 8):
        raise ValueError(f"groups of {bits} bits, where 4 and 8 are known")
    return int(2 ** (bits - 1)) - 1


def _in_groups(rows: torch.Tensor, size: int) -> torch.Tensor:
    """(rows, columns) to (rows, groups, size), padded with zeros."""
    padding = -rows.shape[1] % size
    return torch.nn.functional.pad(rows, (0, padding)).view(len(rows), -1, size)


def _rounded_up(scales: torch.Tensor) -> torch.Tensor:
    """The next bfloat16 away from 0, as float32: the upper half of the bits, rounded up."""
    words = scales.contiguous().view(torch.int32)
    return ((words + 0xFFFF) & ~0xFFFF).view(torch.float32)


def _pack_4_bits(codes: torch.Tensor) -> torch.Tensor:
    """Two 4-bit codes a byte, the first in the lower half; an odd number is padded with 0."""
    even = torch.nn.functional.pad(codes & 15, (0, len(codes) % 2))
    return even[0::2] | (even[1::2] << 4)


def _unpack_4_bits(packed: torch.Tensor, count: int) -> torch.Tensor:
    """The signed codes (count,) of `_pack_4_bits`."""
    codes = torch.stack([packed & 15, packed >> 4], dim=1).reshape(-1)[:count].to(torch.int8)
    return torch.where(codes > 7, codes - 16, codes)


ENCODINGS.register(transforms.GROUPS)(Encoding(encode=encode, decode=decode))
