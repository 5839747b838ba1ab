"""Model files that are zip archives of torch: recognised by their members, their cards read as bytes.

A SHA-256 of the whole file is in the archive's comment, the last bytes of a zip archive.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from dlcli.card import CARD_KEY, Card
from dlcli.errors import DlcliError
from dlcli.files import check_unpacked
from dlcli.formats import tail_digest
from dlcli.formats.base import head_of

CARD_MEMBER = f"extra/{CARD_KEY}"  # where torch puts its "extra files"
_ZIP = b"PK\x03\x04"
_MAX_CARD_BYTES = 2**28  # a vocabulary is a few megabytes
_END = b"PK\x05\x06"  # of the record at the end of an archive, which is followed by its comment
_END_BYTES = 22
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


def check_whole(path: Path) -> bool:
    """Compare an archive with its SHA-256, or its members with their checksums where it has none.

    Returns whether it has one. Raises: DlcliError when it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked(path, sum(info.file_size for info in archive.infolist()))
            if archive.comment or tail_digest.is_there(path):
                if tail_digest.matches(path):
                    return True
                raise damaged(path, "its content does not match the SHA-256 at its end")
            bad = archive.testzip()
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except _BROKEN as exc:
        raise damaged(path, exc) from exc
    if bad is not None:
        raise damaged(path, f"its {bad} does not match its checksum")
    return False


def damaged(path: Path, why: object) -> DlcliError:
    """The error for a damaged archive."""
    return DlcliError(f"{path} is damaged: {why}", hint="copy it again, or export it again")


def write_in_memory(path: Path, save: Callable[[BinaryIO], object]) -> None:
    """Let ``save`` write an archive to memory, and write that and its SHA-256 to ``path``.

    Raises: OSError.

    torch's own writer ends the process when the disk is full.
    """
    buffer = io.BytesIO()
    save(buffer)
    path.write_bytes(buffer.getbuffer())
    add_digest(path)


def add_digest(path: Path) -> None:
    """Put the SHA-256 of an archive without a comment into its comment. Raises: OSError."""
    with path.open("r+b") as file:
        file.seek(-_END_BYTES, io.SEEK_END)
        assert file.read(len(_END)) == _END
        file.seek(-2, io.SEEK_END)  # the comment's length
        file.write(tail_digest.TAIL_BYTES.to_bytes(2, "little"))
    tail_digest.append(path)


def add_member(path: Path, name: str, data: bytes) -> None:
    """Add a member, uncompressed, below the folder of an archive that was just written."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/{name}", data)


def card_in(path: Path, format_name: str, hint: str = "") -> Card:
    """The card among the extra files. Raises: DlcliError when there is none, with ``hint``."""
    data = read_member(path, CARD_MEMBER)
    if data is None:
        raise DlcliError(
            f"{path} is a {format_name} file without a dlcli card: "
            "its classes and preprocessing are unknown",
            hint=hint
            or f"dlcli export --format {format_name} makes one of a model of dlcli's; of another "
            "model dlcli takes the weights: dlcli train --model file.py:Class --weights FILE",
        )
    return Card.from_json(data.decode("utf-8", "replace"), source=path)


def holds(names: frozenset[str], folders: Sequence[str]) -> bool:
    """Whether each of the names, or a member below a folder ending in "/", is there."""
    return all(
        any(name.startswith(want) for name in names) if want.endswith("/") else want in names
        for want in folders
    )
