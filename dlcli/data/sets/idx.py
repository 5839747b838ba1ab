"""The idx format of MNIST and its relatives, plain or gzipped, read strictly.

Four bytes (0, 0, type, number of dimensions), the dimensions as big-endian 32-bit numbers, then the
values, and nothing after them. http://yann.lecun.com/exdb/mnist/ describes it.
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
_GZIP = b"\x1f\x8b"
_GZIP_RATIO = 1100  # deflate cannot make data smaller than by about 1032


def read_idx(path: Path) -> npt.NDArray[Any]:
    """The array of an idx file, of the type and the dimensions its header states.

    Raises: DlcliError when it is no idx file, damaged, or of another size than its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            if not packed:
                return _parse(raw, path, most=size)
            with gzip.open(raw) as file:
                return _parse(cast(BinaryIO, file), path, most=size * _GZIP_RATIO)
    except (OSError, EOFError, zlib.error) as exc:
        raise DlcliError(f"cannot read {path}: {exc}", hint="copy or download it again") from exc


def looks_like_idx(path: Path) -> bool:
    """Whether the file starts as an idx file does, gzipped or not."""
    try:
        with path.open("rb") as raw:
            head = raw.read(4)
            if head[:2] == _GZIP:
                raw.seek(0)
                with gzip.open(raw) as file:
                    head = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in _TYPES and 1 <= head[3] <= 4


def _parse(file: BinaryIO, path: Path, *, most: int) -> npt.NDArray[Any]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 4:
        raise DlcliError(f"{path} is no idx file: it starts with {head.hex(' ') or 'nothing'}")
    dtype, ndim = np.dtype(_TYPES[head[2]]), head[3]
    dims_bytes = file.read(4 * ndim)
    if len(dims_bytes) < 4 * ndim:
        raise DlcliError(f"{path} ends within its header")
    dims = struct.unpack(f">{ndim}I", dims_bytes)
    expected = math.prod(dims) * dtype.itemsize
    # Compared before memory is allocated: a damaged header can claim exabytes.
    body = file.read(expected + 1) if expected <= most else b""
    if len(body) != expected:
        rest = f"more than {expected}" if len(body) > expected else f"{len(body) or 'fewer'}"
        raise DlcliError(
            f"{path}: its header says {' x '.join(map(str, dims))} values, {expected} bytes, "
            f"but {rest} follow",
            hint="it is damaged or incomplete; copy or download it again",
        )
    values = np.frombuffer(bytearray(body), dtype=dtype).reshape(dims)
    return values.astype(dtype.newbyteorder("="), copy=False)
