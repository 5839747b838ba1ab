"""Read the idx format of MNIST and similar sets, plain or gzipped.

A file has four bytes (0, 0, type, number of dimensions), the dimensions as big-endian 32-bit integers,
and exactly the values after them. http://yann.lecun.com/exdb/mnist/ describes it.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from dlcli.errors import DlcliError

_TYPES: dict[int, str] = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_GZIP_RATIO = 1100  # the maximum ratio of deflate is about 1032


def read_idx(path: Path) -> npt.NDArray[Any]:
    """Read the array of an idx file, with the dtype and shape of its header.

    Raises: DlcliError when it is not an idx file, is damaged, or its size differs from the header.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            is_gzipped = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not is_gzipped:
                return _parse(raw, path, max_bytes=size)
            with gzip.open(raw) as file:
                return _parse(cast(BinaryIO, file), path, max_bytes=size * _MAX_GZIP_RATIO)
    except (OSError, EOFError, zlib.error) as exc:
        raise DlcliError(f"cannot read {path}: {exc}", hint="copy or download it again") from exc


def looks_like_idx(path: Path) -> bool:
    """Return whether a file starts with an idx header, gzipped or not."""
    try:
        with path.open("rb") as raw:
            head = raw.read(4)
            if head[:2] == _GZIP_MAGIC:
                raw.seek(0)
                with gzip.open(raw) as file:
                    head = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in _TYPES and 1 <= head[3] <= 4


def _parse(file: BinaryIO, path: Path, *, max_bytes: int) -> npt.NDArray[Any]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 4:
        raise DlcliError(f"{path} is not an idx file: it starts with {head.hex(' ') or 'nothing'}")
    dtype, ndim = np.dtype(_TYPES[head[2]]), head[3]
    dims_bytes = file.read(4 * ndim)
    if len(dims_bytes) < 4 * ndim:
        raise DlcliError(f"{path} ends within its header")
    dims = struct.unpack(f">{ndim}I", dims_bytes)
    expected = math.prod(dims) * dtype.itemsize
    # Checked before allocation: a damaged header can state exabytes.
    body = file.read(expected + 1) if expected <= max_bytes else b""
    if len(body) != expected:
        rest = f"more than {expected}" if len(body) > expected else f"{len(body) or 'fewer'}"
        raise DlcliError(
            f"{path}: its header states {' x '.join(map(str, dims))} values, {expected} bytes, "
            f"but {rest} follow",
            hint="it is damaged or incomplete; copy or download it again",
        )
    values = np.frombuffer(bytearray(body), dtype=dtype).reshape(dims)
    return values.astype(dtype.newbyteorder("="), copy=False)
