"""A SHA-256 as the last bytes of a file, over all bytes before it: in a comment of the file's format."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_MARK = b"dlcli.sha256:"
_DIGITS = 64
TAIL_BYTES = len(_MARK) + _DIGITS


def append(path: Path, end: bytes = b"", *, others: str = "") -> None:
    """Append the digest, and ``end``, to a file whose format takes them there. Raises: OSError.

    ``others`` are digests of further files, which it is over as well.
    """
    with path.open("ab") as file:
        file.write(_MARK)
    digest = _digest(path, path.stat().st_size, others)
    with path.open("ab") as file:
        file.write(digest.encode() + end)


def is_there(path: Path, end: bytes = b"") -> bool:
    """Return whether a file ends in a digest and ``end``. Raises: OSError."""
    return re.fullmatch(_MARK + b"[0-9a-f]{64}", _tail(path, end)[:TAIL_BYTES]) is not None


def matches(path: Path, end: bytes = b"", *, others: str = "") -> bool:
    """Return whether a file matches the digest at its end. Raises: OSError."""
    size = path.stat().st_size - _DIGITS - len(end)
    return _tail(path, end) == _MARK + _digest(path, size, others).encode() + end


def _tail(path: Path, end: bytes) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES - len(end)))
        return file.read()


def _digest(path: Path, size: int, others: str) -> str:
    """Hex SHA-256 of the first ``size`` bytes and of ``others``."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, 2**20))):
            total.update(block)
            size -= len(block)
    total.update(others.encode())
    return total.hexdigest()
