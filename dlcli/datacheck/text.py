"""Texts: lengths in tokens, unknown words, empty and damaged texts, copies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from dlcli.data.base import DataSource, Listed, Samples
from dlcli.data.notices import Level
from dlcli.data.tables.cells import shorten
from dlcli.data.text.tokens import codec_of
from dlcli.datacheck.base import (
    CHECKS,
    EXAMPLES,
    Cell,
    CheckOptions,
    Histogram,
    Numbers,
    Part,
    Table,
    counted,
    share,
)
from dlcli.task import UNKNOWN, TaskSpec, TextInput

_STRANGE, _VERY_STRANGE = 0.1, 0.25  # share of held-out tokens that the vocabulary lacks
_CUT = 0.01  # share of texts that lose their end
_LOST = "\ufffd"  # what a decoder writes for bytes that it could not read
COLUMNS = ("split", "texts", "median", "95 %", "longest", "unknown", "cut", "empty")


def check_text(source: DataSource, task: TaskSpec | None, options: CheckOptions) -> Part:
    """The check of the kind "text"."""
    part = Part(noun="text", quote=lambda samples, i: quoted(texts_of(samples)[i]))
    texts = {split: texts_of(samples) for split, samples in source.splits.items()}
    damaged(source, texts, part)
    part.contents = {split: [content(text) for text in of_split] for split, of_split in texts.items()}
    if task is not None:
        assert isinstance(task.input, TextInput)
        part.facts["vocabulary"] = f"{task.input.vocab_size:,} tokens, {task.input.tokenizer}"
        part.facts["longest text read"] = f"{task.input.max_length:,} tokens"
        token_table(texts, task.input, part, "tokens")
    return part


def texts_of(samples: Samples) -> Sequence[str]:
    """The texts (N,) of a split."""
    assert isinstance(samples.items, Listed)
    texts: Sequence[str] = samples.items.values
    return texts


def quoted(text: str) -> str:
    """A few words of a text, for examples."""
    return f'"{shorten(text, 60)}"'


def content(text: str) -> bytes | None:
    """The same for texts that differ in spaces and capitals only; None for an empty one."""
    plain = " ".join(text.split()).casefold()
    raw = plain.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=16).digest() if plain else None


def damaged(
    source: DataSource, texts: Mapping[str, Sequence[str]], part: Part, what: str = "text"
) -> None:
    """Empty texts, and those with characters that were lost before."""
    for split, of_split in texts.items():
        ids = source.splits[split].ids
        empty = [ids[i] for i, text in enumerate(of_split) if not text.strip()]
        if empty:
            message = f"{split}: {counted(len(empty), what)} of {len(of_split):,} empty"
            hint = "they count as one unknown word: take them out"
            part.find("warning", "empty-text", message, examples=empty, hint=hint)
        lost = [f"{ids[i]}: {quoted(text)}" for i, text in enumerate(of_split) if _LOST in text]
        if lost:
            message = f"{split}: {counted(len(lost), what)} with characters that were lost ({_LOST})"
            hint = "the file was once read in the wrong encoding; take it from its origin"
            part.find("warning", "lost-characters", message, examples=lost, hint=hint)


def token_table(
    texts: Mapping[str, Sequence[str]], spec: TextInput, part: Part, name: str, what: str = "texts"
) -> None:
    """Lengths and unknown words of each split, before anything is cut off."""
    codec = codec_of(spec)
    lengths: dict[str, Numbers] = {}
    rows: list[tuple[Cell, ...]] = []
    for split, of_split in texts.items():
        ids = [codec.ids(text) for text in of_split]
        sizes = np.array([len(one) for one in ids], dtype=np.int64)
        total, unknown = int(sizes.sum()), sum(one.count(UNKNOWN) for one in ids)
        cut = int((sizes > spec.max_length).sum())
        lengths[split] = sizes
        rows.append(
            (
                *(split, len(ids), int(np.median(sizes)), int(np.quantile(sizes, 0.95))),
                *(int(sizes.max()), share(unknown, total), cut, int((sizes == 0).sum())),
            )
        )
        if cut > _CUT * len(ids):
            message = f"{split}: {share(cut, len(ids))} of the {what} ({cut:,}) are longer than "
            message += f"{spec.max_length:,} tokens and lose their end"
            part.find("note", "cut-texts", message, hint="--max-length of training sets the limit")
        if split != "train" and unknown > _STRANGE * total:
            level: Level = "warning" if unknown > _VERY_STRANGE * total else "note"
            message = f"{split}: {share(unknown, total)} of the words are not in train's vocabulary"
            strange = _unknown_words(of_split, ids)
            hint = "is it text of the same kind? --tokenizer bpe cuts rare words into known pieces"
            part.find(level, "unknown-words", message, examples=strange, hint=hint)
    part.tables.append(Table(name, f"{what}: lengths in tokens", COLUMNS, tuple(rows)))
    part.charts.append(Histogram(name, f"lengths of {what}", "tokens", lengths))


def _unknown_words(texts: Sequence[str], ids: Sequence[Sequence[int]]) -> list[str]:
    """The first texts that have some."""
    some = (text for text, one in zip(texts, ids, strict=True) if UNKNOWN in one)
    return [quoted(text) for text, _ in zip(some, range(EXAMPLES), strict=False)]


CHECKS.register("text")(check_text)
