"""Pairs of texts: lengths and unknown words of both sides, unequal pairs, duplicates."""

from __future__ import annotations

import hashlib

import numpy as np

from dlcli.data.base import DataSource, Listed, Samples
from dlcli.datacheck.base import CHECKS, CheckOptions, CheckResult, percent
from dlcli.datacheck.text import check_damage, content_hash, quoted, token_table
from dlcli.task import PairsInput, TaskSpec
from dlcli.wording import plural

# A length ratio this many times the median ratio, in pairs of at least so many characters, is reported.
_RATIO_FACTOR, _MIN_LENGTH = 4.0, 20


def check_pairs(source: DataSource, task: TaskSpec | None, options: CheckOptions) -> CheckResult:
    """The check of the kind "pairs"."""
    result = CheckResult(noun="pair", quote=lambda samples, i: quoted(_pairs(samples)[i][0]))
    for split, samples in source.splits.items():
        pairs = _pairs(samples)
        result.contents[split] = [_pair_hash(*pair) for pair in pairs]
        same = [samples.ids[i] for i, (a, b) in enumerate(pairs) if a == b]
        if same:
            message = f"{split}: {plural(len(same), 'pair')} of {len(pairs):,} with two equal sides"
            hint = "not translated? the model learns to copy from them"
            result.report("warning", "equal-sides", message, examples=same, hint=hint)
        _check_unequal(split, samples, result)
    sides = {
        what: {split: [pair[k] for pair in _pairs(s)] for split, s in source.splits.items()}
        for k, what in enumerate(("source", "target"))
    }
    for k, (what, texts) in enumerate(sides.items()):
        check_damage(source, texts, result, f"{what} text")
        if task is not None:
            assert isinstance(task.input, PairsInput)
            spec = (task.input.source, task.input.target)[k]
            result.facts[f"{what} vocabulary"] = f"{spec.vocab_size:,} tokens, {spec.tokenizer}"
            token_table(texts, spec, result, f"{what}-tokens", f"{what} texts")
    return result


def _pairs(samples: Samples) -> tuple[tuple[str, str], ...]:
    assert isinstance(samples.items, Listed)
    pairs: tuple[tuple[str, str], ...] = samples.items.values
    return pairs


def _pair_hash(source: str, target: str) -> bytes:
    hashes = (content_hash(source) or b"", content_hash(target) or b"")
    return hashlib.blake2b(b"\0".join(hashes), digest_size=16).digest()


def _check_unequal(split: str, samples: Samples, result: CheckResult) -> None:
    """Report pairs whose sides are of very unequal length: often misaligned lines."""
    pairs = _pairs(samples)
    sizes = np.array([[len(a), len(b)] for a, b in pairs], dtype=np.float64) + 1
    ratio = np.log(sizes[:, 0] / sizes[:, 1])
    outlier = np.abs(ratio - np.median(ratio)) > np.log(_RATIO_FACTOR)
    indices = np.flatnonzero(outlier & (sizes.max(axis=1) > _MIN_LENGTH)).tolist()
    if indices:
        examples = [
            f"{samples.ids[i]}: {quoted(pairs[i][0])} / {quoted(pairs[i][1])}" for i in indices[:5]
        ]
        message = f"{split}: {plural(len(indices), 'pair')} ({percent(len(indices), len(pairs))}) "
        message += "with sides of very unequal length: not each other's translation?"
        result.report("note", "unequal-sides", message, examples=examples)


CHECKS.register("pairs")(check_pairs)
