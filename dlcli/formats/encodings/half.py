"""Weights stored in 16 bits. What is loaded again computes in float32, with the precision of 16 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dlcli import transforms
from dlcli.formats.encodings.base import PACKINGS, Packing

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def pack(tensors: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Weights of two dimensions and more as ``args["dtype"]``; the rest as it is.

    So are tensors named in ``args["skip"]``, and what 16 bits cannot hold: float16 ends at 65,504.
    Biases, norms and their statistics are small, and a rounded mean would move every answer.
    """
    dtype, skipped = _dtype(args), set(args.get("skip", ()))
    found = {}
    for name, tensor in tensors.items():
        half = tensor
        if tensor.dtype == torch.float32 and tensor.ndim > 1 and name not in skipped:
            half = tensor.to(dtype)
            if not torch.equal(half.isfinite(), tensor.isfinite()):
                half = tensor
        found[name] = half
    return found


def unpack(tensors: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What was stored in 16 bits as float32."""
    dtype = _dtype(args)
    return {name: t.float() if t.dtype == dtype else t for name, t in tensors.items()}


def _dtype(args: Mapping[str, Any]) -> torch.dtype:
    dtype = DTYPES.get(str(args.get("dtype")))
    if dtype is None:
        raise ValueError(f"16 bits as {args.get('dtype')!r}, which is none of {', '.join(DTYPES)}")
    return dtype


PACKINGS.register(transforms.HALF)(Packing(pack=pack, unpack=unpack))
