"""Pairs of texts: lengths and unknown words of both sides, odd pairs, copies."""

from __future__ import annotations

import hashlib

import numpy as np

from dlcli.data.base import DataSource, Listed, Samples
from dlcli.datacheck.base import CHECKS, CheckOptions, Part, counted, share
from dlcli.datacheck.text import content, damaged, quoted, token_table
from dlcli.task import PairsInput, TaskSpec

# Of the lengths of the two sides: so many times the usual ratio, for texts of some length.
_ODD, _LONG_ENOUGH = 4.0, 20


def check_pairs(source: DataSource, task: TaskSpec | None, options: CheckOptions) -> Part:
    """The check of the kind "pairs"."""
    part = Part(noun="pair", quote=lambda samples, i: quoted(_pairs(samples)[i][0]))
    for split, samples in source.splits.items():
        pairs = _pairs(samples)
        part.contents[split] = [_content(*pair) for pair in pairs]
        same = [samples.ids[i] for i, (a, b) in enumerate(pairs) if a == b]
        if same:
            message = f"{split}: {counted(len(same), 'pair')} of {len(pairs):,} with two equal sides"
            hint = "not translated? they teach to copy"
            part.find("warning", "equal-sides", message, examples=same, hint=hint)
        _odd(split, samples, part)
    sides = {
        what: {split: [pair[k] for pair in _pairs(s)] for split, s in source.splits.items()}
        for k, what in enumerate(("source", "target"))
    }
    for k, (what, texts) in enumerate(sides.items()):
        damaged(source, texts, part, f"{what} text")
        if task is not None:
            assert isinstance(task.input, PairsInput)
            spec = (task.input.source, task.input.target)[k]
            part.facts[f"{what} vocabulary"] = f"{spec.vocab_size:,} tokens, {spec.tokenizer}"
            token_table(texts, spec, part, f"{what}-tokens", f"{what} texts")
    return part


def _pairs(samples: Samples) -> tuple[tuple[str, str], ...]:
    assert isinstance(samples.items, Listed)
    pairs: tuple[tuple[str, str], ...] = samples.items.values
    return pairs


def _content(source: str, target: str) -> bytes:
    parts = (content(source) or b"", content(target) or b"")
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()


def _odd(split: str, samples: Samples, part: Part) -> None:
    """Pairs whose sides are of very unequal length: often lines that slipped."""
    pairs = _pairs(samples)
    sizes = np.array([[len(a), len(b)] for a, b in pairs], dtype=np.float64) + 1
    ratio = np.log(sizes[:, 0] / sizes[:, 1])
    far = np.abs(ratio - np.median(ratio)) > np.log(_ODD)
    where = np.flatnonzero(far & (sizes.max(axis=1) > _LONG_ENOUGH)).tolist()
    if where:
        shown = [f"{samples.ids[i]}: {quoted(pairs[i][0])} / {quoted(pairs[i][1])}" for i in where[:5]]
        message = (
            f"{split}: {counted(len(where), 'pair')} ({share(len(where), len(pairs))}) with sides of "
        )
        message += "very unequal length: not each other's translation?"
        part.find("note", "unequal-sides", message, examples=shown)


CHECKS.register("pairs")(check_pairs)
