"""Model files that are zip archives of torch: recognised by their members, their cards read as bytes."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from dlcli.card import CARD_KEY, Card
from dlcli.errors import DlcliError
from dlcli.formats.base import head_of

CARD_MEMBER = f"extra/{CARD_KEY}"  # where torch puts its "extra files"
_ZIP = b"PK\x03\x04"
_MAX_CARD_BYTES = 2**28  # a vocabulary is a few megabytes
# What reading a damaged archive raises; a RuntimeError where a bit says that a member is encrypted.
_BROKEN = (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError)


def looks_zipped(path: Path) -> bool:
    """Whether the file begins as a zip archive does. Raises: OSError."""
    return head_of(path, 4) == _ZIP


def members(path: Path) -> frozenset[str]:
    """The names in a zip archive below its one folder; empty for other files. Raises: OSError."""
    if not looks_zipped(path):
        return frozenset()
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _BROKEN:  # cut off, or of another kind
        return frozenset()
    return frozenset(name.partition("/")[2] for name in names)


def read_member(path: Path, name: str) -> bytes | None:
    """The bytes of a member below the archive's folder, its checksum verified; None where there is none.

    Raises: DlcliError when the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.partition("/")[2] == name:
                    if info.file_size > _MAX_CARD_BYTES:
                        raise DlcliError(f"{path} is damaged: its {name} has {info.file_size} bytes")
                    return archive.read(info)
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except _BROKEN as exc:
        raise damaged(path, exc) from exc
    return None


def check_whole(path: Path) -> None:
    """Read every member against its checksum. Raises: DlcliError naming the first that is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except _BROKEN as exc:
        raise damaged(path, exc) from exc
    if bad is not None:
        raise damaged(path, f"its {bad} does not match its checksum")


def damaged(path: Path, why: object) -> DlcliError:
    """The error for a damaged archive."""
    return DlcliError(f"{path} is damaged: {why}", hint="copy it again, or export it again")


def write_in_memory(path: Path, save: Callable[[BinaryIO], object]) -> None:
    """Let ``save`` write to memory, and write that to ``path``. Raises: OSError.

    torch's own writer ends the process when the disk is full.
    """
    buffer = io.BytesIO()
    save(buffer)
    path.write_bytes(buffer.getbuffer())


def add_member(path: Path, name: str, data: bytes) -> None:
    """Add a member, uncompressed, below the folder of an archive that was just written."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/{name}", data)


def card_in(path: Path, format_name: str) -> Card:
    """The card among the extra files. Raises: DlcliError when there is none."""
    data = read_member(path, CARD_MEMBER)
    if data is None:
        raise DlcliError(
            f"{path} is a {format_name} file without a dlcli card: "
            "its classes and preprocessing are unknown",
            hint=f"dlcli export --format {format_name} makes one of a model of dlcli's; of another "
            "model dlcli takes the weights: dlcli train --model file.py:Class --weights FILE",
        )
    return Card.from_json(data.decode("utf-8", "replace"), source=path)


def holds(names: frozenset[str], folders: Sequence[str]) -> bool:
    """Whether each of the names, or a member below a folder ending in "/", is there."""
    return all(
        any(name.startswith(want) for name in names) if want.endswith("/") else want in names
        for want in folders
    )
