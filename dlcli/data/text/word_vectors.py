"""Files of word vectors, of which the rows of a vocabulary are read.

A text of a word and its D numbers on each line (GloVe), with a line "words D" in front of them or not
(word2vec, fastText), or a NumPy array (words, D) with the file of its words next to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dlcli.errors import DlcliError
from dlcli.files import sha256_file
from dlcli.task import SPECIAL_TOKENS, TextInput
from dlcli.wording import first_line, listed

Vector = npt.NDArray[np.float32]  # (D,)
# A word of a file and the call that gives its vector, made for words of the vocabulary only.
_Row = tuple[str, Callable[[], Vector]]

_MAX_LINE_BYTES = 2**20
_WORDS_SUFFIXES = (".txt", ".words", ".vocab", ".parquet")
_TEXT_HINT = "each line is a word and its numbers, separated by spaces"
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")


@dataclass(frozen=True)
class WordVectors:
    """The vectors of a vocabulary's words: ``rows[i]`` (D,) belongs to token id ``ids[i]``.

    ``words`` is how many the vocabulary has, without special tokens; ``digests`` are the SHA-256 of the
    files that they come from.
    """

    path: Path
    words: int
    ids: npt.NDArray[np.int64]
    rows: npt.NDArray[np.float32]
    digests: tuple[str, ...]

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self.rows.shape[1])

    def sentence(self) -> str:
        """How many words of the vocabulary have a vector."""
        count = len(self.ids)
        text = f"{self.path.name}: vectors of {self.dim} numbers for {count:,} of the {self.words:,} "
        text += f"words of the vocabulary ({count / self.words:.0%})"
        return text if count == self.words else f"{text}; the others start at random"


def read_word_vectors(path: Path, spec: TextInput) -> WordVectors:
    """Read the vectors of the words of a vocabulary; no other rows are held in memory.

    A token has the vector of its own spelling, else of its lower case, else of the first word that
    differs from it in case only. Special tokens have none.

    Raises: DlcliError when the file is missing or damaged, rows differ in length, a number of a row
    that is used is not finite, or no word of the vocabulary is in it.
    """
    if not path.is_file():
        raise DlcliError(f"--word-vectors {path} is no file")
    with path.open("rb") as file:
        is_array = file.read(6) == b"\x93NUMPY"
    if is_array:
        words = _words_file(path)
        files, vectors = [path, words], _collect(_array_rows(path, words), spec)
    else:
        with path.open("rb") as file:
            files, vectors = [path], _collect(_text_rows(path, file), spec)
    total = spec.vocab_size - len(SPECIAL_TOKENS)
    if not vectors:
        raise DlcliError(
            f"--word-vectors {path} has none of the {total:,} words of the vocabulary",
            hint="are its words of the language of the texts, such as "
            f"{listed(spec.vocabulary[len(SPECIAL_TOKENS) :], 3)}?",
        )
    ids = np.array(sorted(vectors), dtype=np.int64)
    rows = np.stack([vectors[int(id_)] for id_ in ids])
    return WordVectors(path, total, ids, rows, tuple(map(sha256_file, files)))


def _collect(entries: Iterator[_Row], spec: TextInput) -> dict[int, Vector]:
    """The vectors by token id; of several words that fit equally well the first."""
    by_lower: dict[str, list[int]] = {}
    for id_, token in enumerate(spec.vocabulary):
        if id_ >= len(SPECIAL_TOKENS):
            by_lower.setdefault(token.lower(), []).append(id_)
    ranks: dict[int, int] = {}
    vectors: dict[int, Vector] = {}
    for word, vector in entries:
        lower = word.lower()
        for id_ in by_lower.get(lower, ()):
            rank = 0 if word == spec.vocabulary[id_] else 1 if word == lower else 2
            if rank < ranks.get(id_, 3):
                ranks[id_], vectors[id_] = rank, vector()
    return vectors


def _text_rows(path: Path, file: BinaryIO) -> Iterator[_Row]:
    """The rows of a text. Raises: DlcliError naming the line."""
    start = file.read(4096)
    if b"\0" in start or start.startswith(_ARCHIVES):
        packed = start.startswith(_ARCHIVES)
        raise DlcliError(
            f"--word-vectors {path} is no text",
            hint="unpack it first"
            if packed
            else "a binary word2vec file is converted by gensim: "
            "KeyedVectors.load_word2vec_format(FILE, binary=True).save_word2vec_format(TEXT)",
        )
    file.seek(0)
    dim = 0
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), 1):
        text = line.replace(b"\t", b" ").strip(b" \r\n")
        if not text:
            continue
        fields = text.count(b" ") + 1
        if number == 1 and fields == 2 and all(part.isdigit() for part in text.split()):
            dim = int(text.split()[1])
            continue
        dim = dim or fields - 1
        parts = text.rsplit(b" ", dim) if dim else [text]
        if (
            not dim
            or len(parts) != dim + 1
            or _is_number(parts[0].rpartition(b" ")[2], fields > dim + 1)
        ):
            raise DlcliError(
                f"--word-vectors {path}, line {number:,}: it has {fields - 1} numbers"
                + (f", and the lines before have {dim}" if dim and number > 1 else ""),
                hint=_TEXT_HINT,
            )
        yield (
            parts[0].decode("utf-8", "replace"),
            partial(_vector, parts[1:], f"{path}, line {number:,}"),
        )


def _is_number(text: bytes, possible: bool) -> bool:
    """Whether what would be the end of a word of several parts is one number too many."""
    try:
        return possible and float(text) is not None
    except ValueError:
        return False


def _vector(parts: Sequence[Any], place: str) -> Vector:
    """One vector. Raises: DlcliError where a part is no finite number."""
    try:
        with np.errstate(over="ignore"):
            vector = np.array(list(map(float, parts)), dtype=np.float32)
    except ValueError as exc:
        raise DlcliError(f"--word-vectors {place}: {exc}", hint=_TEXT_HINT) from exc
    if not np.isfinite(vector).all():
        bad = parts[int(np.flatnonzero(~np.isfinite(vector))[0])]
        shown = bad.decode("utf-8", "replace") if isinstance(bad, bytes) else bad
        raise DlcliError(f"--word-vectors {place}: {shown} is no finite number of 32 bits")
    return vector


def _array_rows(path: Path, words_path: Path) -> Iterator[_Row]:
    """The rows of an array, by the words in their order. Raises: DlcliError."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as exc:
        raise DlcliError(f"--word-vectors {path} is damaged: {first_line(exc)}") from exc
    if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        raise DlcliError(
            f"--word-vectors {path} is an array {array.shape} of {array.dtype}",
            hint="it must be numbers with a row for each word: (words, dimensions) of float32",
        )
    count = 0
    for word in _words(words_path):
        if count < len(array):
            yield word, partial(_vector, array[count], f"{path}, row {count + 1:,}")
        count += 1
    if count != len(array):
        raise DlcliError(
            f"--word-vectors {path} has {len(array):,} rows, and {words_path.name} {count:,} words",
            hint="the words are in the order of the rows, one a line",
        )


def _words_file(path: Path) -> Path:
    """The file of an array's words: of its name, or the only one in its folder. Raises: DlcliError."""
    same = [path.with_suffix(suffix) for suffix in _WORDS_SUFFIXES]
    others = [other for other in sorted(path.parent.iterdir()) if other.suffix in _WORDS_SUFFIXES]
    files = [other for other in same if other.is_file()] or others
    if len(files) == 1:
        return files[0]
    names = "none" if not files else listed([file.name for file in files], 4)
    raise DlcliError(
        f"--word-vectors {path} needs the file of its words next to it, and there is {names}",
        hint=f"put one word a line into {path.with_suffix('.txt').name}",
    )


def _words(path: Path) -> Iterator[str]:
    """The words of a file: one a line, up to a tab, or the first column of words of a Parquet table."""
    if path.suffix != ".parquet":
        with path.open("rb") as file:
            for line in file:
                yield line.rstrip(b"\r\n").partition(b"\t")[0].decode("utf-8", "replace")
        return
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as exc:
        raise DlcliError(f"--word-vectors: cannot read {path}: {first_line(exc)}") from exc
    columns = [column for column in frame.iter_columns() if column.dtype == pl.String]
    if not columns:
        raise DlcliError(f"--word-vectors: {path} has no column of words")
    for word in columns[0]:
        yield word or ""
