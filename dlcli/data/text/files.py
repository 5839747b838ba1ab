"""Read texts that are not in tables: plain files of lines, and folders of text files."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlcli.data.class_folders import SampleType, files_below, has_samples, list_classes, natural
from dlcli.data.notices import Notice
from dlcli.errors import DlcliError
from dlcli.notation.charset import decode_text
from dlcli.wording import plural

LAYOUTS = (
    "a table with a text and a label column, folders CLASS/*.txt or train/CLASS/*.txt, "
    "or a file with a label and a text per line"
)
PLAIN_SUFFIXES = (".txt", ".text", ".all", ".data", ".lines")
TEXT_SUFFIXES = (".txt", ".text")
_HEAD_BYTES = 1 << 18
_MIN_LINES = 4  # to recognise the layout of a plain file
# In files of fastText each word with this prefix is a label.
LABEL_PREFIX = "__label__"
_LABEL_WORD = re.compile(rf"(?:^|(?<=\s)){LABEL_PREFIX}\S+")
_MIN_PREFIXED = 0.9  # of the lines


@dataclass(frozen=True)
class TextFile:
    """One file of a folder of texts; ``id`` is its path below the root, ``label`` its class."""

    id: str
    label: str
    path: Path


def read_text(path: Path) -> tuple[str, Notice | None]:
    """Read a text file; also return a notice when it is not UTF-8.

    Raises: DlcliError when it cannot be read or is not text.
    """
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    text, notice = decode_bytes(raw, str(path))
    if "\0" in text[:4096]:
        raise DlcliError(f"{path} is not a text file: it has zero bytes")
    return text, notice


def read_lines(path: Path) -> tuple[list[str], list[Notice]]:
    """Read the lines of a file, including empty ones; also return notices."""
    text, notice = read_text(path)
    return split_lines(text), [notice] if notice else []


def first_lines(path: Path) -> list[str] | None:
    """Read the non-empty lines at the beginning of a file; None when it is not readable as text."""
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
    text, _ = decode_bytes(raw, "")
    return [line for line in split_lines(text) if line.strip()]


def split_label(line: str) -> tuple[str, str]:
    """Split a line into label and text at a tab or its first space; "" where one is missing."""
    label, _, text = line.partition("\t") if "\t" in line else line.strip().partition(" ")
    return label.strip(), text.strip()


def has_label_words(lines: Sequence[str]) -> bool:
    """Return whether most lines begin with a label of fastText's form, ``__label__NAME``."""
    prefixed = sum(line.lstrip().startswith(LABEL_PREFIX) for line in lines)
    return bool(lines) and prefixed >= _MIN_PREFIXED * len(lines)


def split_label_words(line: str) -> tuple[list[str], str]:
    """Split a line of fastText's form into its labels, with their prefix, and the text of all others."""
    labels = _LABEL_WORD.findall(line)
    return labels, " ".join(_LABEL_WORD.sub("", line).split()) if labels else line.strip()


def looks_labelled(lines: Sequence[str]) -> bool:
    """Return whether lines are plausibly ``label text``: few distinct first words, each repeated.

    Prose has many distinct first words, most of which occur once.
    """
    if has_label_words(lines):
        return True
    if len(lines) < _MIN_LINES:
        return False
    pairs = [split_label(line) for line in lines]
    # A text contains a letter, unlike columns of numbers.
    if sum(any(c.isalpha() for c in text) for _, text in pairs) < 0.9 * len(pairs):
        return False
    counts = Counter(label for label, _ in pairs)
    once = sum(1 for count in counts.values() if count == 1)
    if all(is_number(label) for label in counts) and any(not label.isdigit() for label in counts):
        return all("\t" in line for line in lines) or len(counts) > 2  # numbers to predict
    return len(counts) <= max(2, len(lines) // 3) and once <= 0.1 * len(lines)


def is_number(text: str) -> bool:
    """Return whether a string is a decimal number."""
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text) is not None


def list_text_files(root: Path) -> tuple[dict[str, list[TextFile]], list[Notice]]:
    """List the text files of CLASS or SPLIT/CLASS folders by split, in natural order, and notices.

    See `dlcli.data.class_folders`.
    """
    listing = list_classes(root, TEXTS)
    files_by_split = {
        split: [
            TextFile(file.id, label, file.path)
            for label, files in classes.items()
            for file in sorted(files, key=lambda file: natural(file.path.as_posix()))
        ]
        for split, classes in listing.splits.items()
    }
    return {split: files for split, files in files_by_split.items() if files}, listing.notices


def has_text_files(root: Path) -> bool:
    """Return whether subfolders have text files."""
    return has_samples(root, TEXTS, loose=False)


def file_digests(paths: Sequence[Path]) -> list[bytes]:
    """Return the SHA-256 digest of each file."""
    out = []
    for path in paths:
        try:
            with path.open("rb") as file:
                out.append(hashlib.file_digest(file, "sha256").digest())
        except OSError as exc:
            raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    return out


def decode_bytes(raw: bytes, name: str) -> tuple[str, Notice | None]:
    """Decode bytes of unknown encoding; also return a notice when they are not UTF-8."""
    text, encoding = decode_text(raw)
    if encoding in ("UTF-8", "ASCII"):
        return text, None
    lines = plural(sum(not line.isascii() for line in raw.split(b"\n")), "line")
    message = f"{name} is not UTF-8: read as {encoding} ({lines} with non-ASCII characters)"
    return text, Notice(message, "not-utf-8")


def split_lines(text: str) -> list[str]:
    """Split a text at \\n, \\r\\n and \\r."""
    # str.splitlines would also split at characters that may occur in a text, such as U+2028.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def text_files_below(folder: Path) -> list[Path]:
    """Return the text files at any depth, in natural order, without hidden names."""
    return files_below(folder, TEXTS)


def _is_text_file(name: str) -> bool:
    return name.lower().endswith(TEXT_SUFFIXES)


def _has_text_content(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError:
        return False
    return bool(start) and b"\0" not in start


TEXTS = SampleType("text", _is_text_file, _has_text_content, LAYOUTS)
