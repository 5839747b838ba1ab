"""Texts: lengths in tokens, unknown words, empty and damaged texts, duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from dlcli.data.base import DataSource, Listed, Samples
from dlcli.data.notices import Level
from dlcli.data.text.text_pairs import TextPairs, divide
from dlcli.data.text.tokens import whole_ids
from dlcli.datacheck.base import (
    CHECKS,
    EXAMPLES,
    Cell,
    CheckOptions,
    CheckResult,
    Histogram,
    Numbers,
    Table,
    percent,
)
from dlcli.task import UNKNOWN, TaskSpec, TextInput
from dlcli.wording import plural, shorten

_UNKNOWN_NOTE, _UNKNOWN_WARNING = 0.1, 0.25  # shares of held-out tokens outside the vocabulary
_TRUNCATED_NOTE = 0.01  # share of texts that are truncated
_REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that it cannot decode
COLUMNS = ("split", "texts", "median", "95 %", "longest", "unknown", "cut", "empty")


def check_text(source: DataSource, task: TaskSpec | None, options: CheckOptions) -> CheckResult:
    """The check of the kind "text"."""
    result = CheckResult(noun="text", quote=lambda samples, i: quoted(texts_of(samples)[i]))
    texts = {split: texts_of(samples) for split, samples in source.splits.items()}
    check_damage(source, texts, result)
    result.contents = {
        split: [content_hash(text) for text in of_split] for split, of_split in texts.items()
    }
    if task is not None:
        assert isinstance(task.input, TextInput)
        result.facts["vocabulary"] = f"{task.input.vocab_size:,} tokens, {task.input.tokenizer}"
        result.facts["longest text read"] = f"{task.input.max_length:,} tokens"
        token_table(texts, task.input, result, "tokens")
    return result


def texts_of(samples: Samples) -> Sequence[str]:
    """Return the texts (N,) of a split."""
    assert isinstance(samples.items, Listed)
    texts: Sequence[str] = samples.items.values
    return texts


def quoted(text: str) -> str:
    """Return the beginning of a text in quotes, for examples."""
    return f'"{shorten(" ".join(text.split()), 60)}"'


def content_hash(text: str) -> bytes | None:
    """Hash a text, ignoring case and whitespace; None for an empty one."""
    normalized = " ".join(text.split()).casefold()
    raw = normalized.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=16).digest() if normalized else None


def check_damage(
    source: DataSource, texts: Mapping[str, Sequence[str]], result: CheckResult, what: str = "text"
) -> None:
    """Report empty texts, and those with replacement characters."""
    for split, of_split in texts.items():
        ids = source.splits[split].ids
        pairs = isinstance(source.splits[split].items, TextPairs)
        empty = [
            ids[i]
            for i, text in enumerate(of_split)
            if not all(part.strip() for part in (divide(text) if pairs else (text,)))
        ]
        if empty:
            words = plural(len(empty), "pair" if pairs else what)
            message = f"{split}: {words} of {len(of_split):,} {'lack a text' if pairs else 'empty'}"
            hint = "they count as one unknown word: take them out"
            result.report("warning", "empty-text", message, examples=empty, hint=hint)
        damaged = [
            f"{ids[i]}: {quoted(text)}" for i, text in enumerate(of_split) if _REPLACEMENT in text
        ]
        if damaged:
            count = plural(len(damaged), what)
            message = f"{split}: {count} with characters lost in decoding ({_REPLACEMENT})"
            hint = "the file was once decoded in the wrong encoding; get the original"
            result.report("warning", "lost-characters", message, examples=damaged, hint=hint)


def token_table(
    texts: Mapping[str, Sequence[str]],
    spec: TextInput,
    result: CheckResult,
    name: str,
    what: str = "texts",
) -> None:
    """Add lengths and unknown words of each split, before truncation."""
    lengths: dict[str, Numbers] = {}
    rows: list[tuple[Cell, ...]] = []
    for split, of_split in texts.items():
        ids = whole_ids(of_split, spec)
        sizes = np.array([len(tokens) for tokens in ids], dtype=np.int64)
        total, unknown = int(sizes.sum()), sum(tokens.count(UNKNOWN) for tokens in ids)
        truncated = int((sizes > spec.max_length).sum())
        lengths[split] = sizes
        rows.append(
            (
                *(split, len(ids), int(np.median(sizes)), int(np.quantile(sizes, 0.95))),
                *(int(sizes.max()), percent(unknown, total), truncated, int((sizes == 0).sum())),
            )
        )
        if truncated > _TRUNCATED_NOTE * len(ids):
            message = (
                f"{split}: {percent(truncated, len(ids))} of the {what} ({truncated:,}) are longer than "
            )
            message += f"{spec.max_length:,} tokens and are truncated"
            result.report("note", "cut-texts", message, hint="--max-length of training sets the limit")
        if split != "train" and unknown > _UNKNOWN_NOTE * total:
            level: Level = "warning" if unknown > _UNKNOWN_WARNING * total else "note"
            message = f"{split}: {percent(unknown, total)} of the words are not in train's vocabulary"
            examples = _texts_with_unknown(of_split, ids)
            hint = "is it text of the same kind? --tokenizer bpe splits rare words into known subwords"
            result.report(level, "unknown-words", message, examples=examples, hint=hint)
    result.tables.append(Table(name, f"{what}: lengths in tokens", COLUMNS, tuple(rows)))
    result.charts.append(Histogram(name, f"lengths of {what}", "tokens", lengths))


def _texts_with_unknown(texts: Sequence[str], ids: Sequence[Sequence[int]]) -> list[str]:
    """Return the first texts with unknown words."""
    unknown = (text for text, tokens in zip(texts, ids, strict=True) if UNKNOWN in tokens)
    return [quoted(text) for text, _ in zip(unknown, range(EXAMPLES), strict=False)]


CHECKS.register("text")(check_text)
