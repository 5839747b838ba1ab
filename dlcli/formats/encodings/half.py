"""Weights stored in 16 bits. Loaded again they are float32, rounded to the precision of 16 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dlcli import transforms
from dlcli.formats.encodings.base import ENCODINGS, Encoding

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def encode(tensors: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Weights of two dimensions and more as ``args["dtype"]``; the rest unchanged.

    Tensors named in ``args["skip"]`` stay unchanged, and so do those beyond the range of 16 bits:
    float16 ends at 65,504. Biases, norms and their statistics are small, and a rounded mean would move
    every output.
    """
    dtype, skip = _dtype(args), set(args.get("skip", ()))
    stored = {}
    for name, tensor in tensors.items():
        stored[name] = tensor
        if tensor.dtype == torch.float32 and tensor.ndim > 1 and name not in skip:
            half = tensor.to(dtype)
            if torch.equal(half.isfinite(), tensor.isfinite()):
                stored[name] = half
    return stored


def decode(stored: Mapping[str, torch.Tensor], args: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors stored in 16 bits as float32."""
    dtype = _dtype(args)
    return {name: t.float() if t.dtype == dtype else t for name, t in stored.items()}


def _dtype(args: Mapping[str, Any]) -> torch.dtype:
    dtype = DTYPES.get(str(args.get("dtype")))
    if dtype is None:
        raise ValueError(f"16 bits as {args.get('dtype')!r}, which is none of {', '.join(DTYPES)}")
    return dtype


ENCODINGS.register(transforms.HALF)(Encoding(encode=encode, decode=decode))
