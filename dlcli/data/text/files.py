"""Reading texts that are not in tables: plain files of lines, and folders of text files."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlcli.data.images.folder import natural
from dlcli.data.notices import Notice
from dlcli.data.sets.named import clean
from dlcli.data.tables.charset import decode_text
from dlcli.data.tables.split_names import SPLIT_NAMES
from dlcli.errors import DlcliError

PLAIN = (".txt", ".text", ".all", ".data", ".lines")
TEXT_FILES = (".txt", ".text")
_HEAD_BYTES = 1 << 18
_MIN_LINES = 4  # to recognise the layout of a plain file


@dataclass(frozen=True)
class TextFile:
    """One file of a folder of texts: its id (the path below the root), its class, where it is."""

    id: str
    label: str
    path: Path


def read_text(path: Path) -> tuple[str, Notice | None]:
    """A file's text with plain line ends, and a notice when it is not UTF-8.

    Raises: DlcliError when it cannot be read or is no text.
    """
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    text, notice = decoded(raw, str(path))
    if "\0" in text[:4096]:
        raise DlcliError(f"{path} is no text: it holds zero bytes")
    return text, notice


def read_lines(path: Path) -> tuple[list[str], list[Notice]]:
    """The lines of a file, the empty ones included, and notices."""
    text, notice = read_text(path)
    return split_lines(text), [notice] if notice else []


def first_lines(path: Path) -> list[str] | None:
    """The non-empty lines at the beginning of a file; None when it is no text or cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(_HEAD_BYTES)
            whole = not file.read(1)
    except OSError:
        return None
    if b"\0" in raw:
        return None
    if not whole:
        raw = raw[: raw.rfind(b"\n") + 1]
    text, _ = decoded(raw, "")
    return [line for line in split_lines(text) if line.strip()]


def labelled(line: str) -> tuple[str, str]:
    """Split a line into label and text at a tab or its first space; "" where one is missing."""
    label, _, text = line.partition("\t") if "\t" in line else line.strip().partition(" ")
    return label.strip(), text.strip()


def looks_labelled(lines: Sequence[str]) -> bool:
    """Whether lines are plausibly ``label text``: few different first tokens, each seen again.

    Prose fails: its first words are many, and many of them stand there once.
    """
    if len(lines) < _MIN_LINES:
        return False
    pairs = [labelled(line) for line in lines]
    # A text has a letter in it: columns of numbers are no texts.
    if sum(any(c.isalpha() for c in text) for _, text in pairs) < 0.9 * len(pairs):
        return False
    counts = Counter(label for label, _ in pairs)
    once = sum(1 for count in counts.values() if count == 1)
    if all(is_number(label) for label in counts) and any(not label.isdigit() for label in counts):
        return all("\t" in line for line in lines) or len(counts) > 2  # numbers to predict
    return len(counts) <= max(2, len(lines) // 3) and once <= 0.1 * len(lines)


def is_number(text: str) -> bool:
    """Whether it is written as a decimal number."""
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text) is not None


def list_texts(root: Path) -> dict[str, list[TextFile]] | None:
    """A folder of text files by split ("all" where there are none); None when it is no such folder.

    The layout is CLASS/*.txt or SPLIT/CLASS/*.txt; files count however deep below the class they lie.
    Hidden names are passed over, links to folders not followed.
    """
    if not root.is_dir():
        return None
    below = _folders(root)
    named: dict[str, Path] = {}
    for folder in below:
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is not None and _folders(folder):
            if split in named:
                raise DlcliError(
                    f"{root} has two folders for {split}: {named[split].name} and {folder.name}",
                    hint="keep one of them",
                )
            named[split] = folder
    splits = named if "train" in named or len(named) == len(below) else {"all": root}
    files_by_split = {split: list(_texts_of(root, folder)) for split, folder in splits.items()}
    return {split: files for split, files in files_by_split.items() if files} or None


def holds_texts(root: Path, limit: int = 2_000) -> bool:
    """Whether a folder has ``.txt`` files in folders of it; looks at ``limit`` entries at most."""
    seen = 0
    for here, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        depth = len(Path(here).relative_to(root).parts)
        if depth and any(_is_text_file(name) for name in files):
            return True
        seen += len(folders) + len(files)
        if seen > limit or depth > 4:
            return False
    return False


def digest(paths: Sequence[Path]) -> list[bytes]:
    """The SHA-256 of each file."""
    out = []
    for path in paths:
        try:
            with path.open("rb") as file:
                out.append(hashlib.file_digest(file, "sha256").digest())
        except OSError as exc:
            raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    return out


def decoded(raw: bytes, name: str) -> tuple[str, Notice | None]:
    """The text of bytes, and a notice when they are not UTF-8."""
    text, encoding = decode_text(raw)
    if encoding in ("UTF-8", "ASCII"):
        return text, None
    odd = sum(not line.isascii() for line in raw.split(b"\n"))
    lines = "1 line" if odd == 1 else f"{odd:,} lines"
    message = f"{name} is not UTF-8: read as {encoding} ({lines} with characters beyond ASCII)"
    return text, Notice(message, "not-utf-8")


def split_lines(text: str) -> list[str]:
    """The lines of a text, whatever ends them."""
    # Not splitlines: it also cuts at characters that a text may well hold, such as U+2028.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def _is_text_file(name: str) -> bool:
    return name.lower().endswith(TEXT_FILES) and not name.startswith(".")


def _folders(parent: Path) -> list[Path]:
    try:
        folders = [p for p in parent.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]
    except OSError as exc:
        raise DlcliError(f"cannot list {parent}: {exc.strerror}") from exc
    return sorted(folders, key=lambda path: natural(path.name))


def _texts_of(root: Path, folder: Path) -> Iterator[TextFile]:
    for label in _folders(folder):
        for path in texts_below(label):
            yield TextFile(clean(path.relative_to(root).as_posix()), clean(label.name), path)


def texts_below(folder: Path) -> list[Path]:
    """The text files at any depth, in natural order; hidden names are passed over."""
    paths = []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(here) / name for name in files if _is_text_file(name)]
    return sorted(paths, key=lambda path: natural(path.as_posix()))
