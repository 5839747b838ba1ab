"""Samples of the same content: copies, contradictions, and leaks from one split into another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import combinations

from dlcli.data.base import DataSource
from dlcli.data.copies import CHANCE_SHARE, LEAK_SHARE
from dlcli.data.notices import Level
from dlcli.datacheck.base import EXAMPLES, CheckResult, Finding, target_text
from dlcli.wording import plural

Position = tuple[str, int]  # (split, index)
Positions = dict[Hashable, list[Position]]  # by content
_REMOVE_FROM_ONE_SPLIT = "remove the copies from one of the two"
_REMOVE = "remove the copies from the data, or its metrics are too good"


def find_duplicates(source: DataSource, result: CheckResult) -> None:
    """Add the findings on equal contents to ``result``.

    The same content in two splits is an error where both splits were given and one of them is test, or
    the targets differ, for at least 1 % of the held-out split: its metrics would partly measure
    memorization. It is an error too where half of val is in train, and else a warning, also where dlcli
    made one of the splits, and where equal samples may be a coincidence (``result.chance``). Copies
    inside a split are warnings; by coincidence, notes.
    """
    for split in result.contents:
        result.findings += _duplicates(source, split, _positions(result, [split]), result)
    for name, seen, held_out in _split_pairs(source, result):
        result.findings += _leak(source, result, name, _positions(result, seen), held_out)


def _split_pairs(source: DataSource, result: CheckResult) -> list[tuple[str, list[str], str]]:
    """Splits to compare: a name, its splits, and the held-out split that should share nothing with them.

    A val that dlcli took out of a given train is train to the test split.
    """
    splits = list(result.contents)
    if "test" in source.given and "val" in splits and "val" not in source.given:
        pairs = [("train", ["train"], "val"), ("train", ["train", "val"], "test")]
    else:
        pairs = [(first, [first], second) for first, second in combinations(splits, 2)]
    return [pair for pair in pairs if pair[2] in splits]


def _positions(result: CheckResult, splits: Iterable[str]) -> Positions:
    positions: Positions = defaultdict(list)
    for split in splits:
        for index, key in enumerate(result.contents[split]):
            if key is not None:
                positions[key].append((split, index))
    return positions


def _duplicates(
    source: DataSource, split: str, positions: Positions, result: CheckResult
) -> list[Finding]:
    groups = [group for group in positions.values() if len(group) > 1]
    if not groups:
        return []
    extra = sum(len(group) - 1 for group in groups)
    conflicting = [
        group for group in groups if len({_target(source, position) for position in group}) > 1
    ]
    equal = [group for group in groups if group not in conflicting] or groups
    findings = [
        Finding(
            "note" if result.chance else "warning",
            "duplicates",
            f"{split}: {plural(extra, result.noun)} of {len(source.splits[split]):,} "
            f"repeat{'s' if extra == 1 else ''} another one of this split",
            tuple(_equal_ids(source, group, result) for group in equal[:EXAMPLES]),
            None if result.chance else "a copy counts twice, in training and in every metric",
        )
    ]
    if conflicting:
        findings.append(
            Finding(
                "note" if result.chance or source.task == "regression" else "warning",
                "conflicting-targets",
                f"{split}: {plural(sum(map(len, conflicting)), result.noun)} with the content of "
                "another one but not its target: no model can predict both",
                tuple(
                    _equal_ids(source, group, result, targets=True) for group in conflicting[:EXAMPLES]
                ),
                None if result.chance else "keep the one with the right target",
            )
        )
    return findings


def _leak(
    source: DataSource, result: CheckResult, name: str, seen: Positions, split: str
) -> list[Finding]:
    """Report samples of ``split`` that are also in ``seen``, the splits called ``name``."""
    held_out = _positions(result, [split])
    shared = [key for key in held_out if key in seen]
    if not shared:
        return []
    conflicting = {
        key
        for key in shared
        if {_target(source, position) for position in held_out[key]}
        != {_target(source, position) for position in seen[key]}
    }
    count = sum(len(held_out[key]) for key in shared)
    message = (
        f"{plural(count, result.noun)} of the {len(source.splits[split]):,} in {split} "
        f"{'is' if count == 1 else 'are'} in {name} too"
    )
    if conflicting:
        message += f", {sum(len(held_out[key]) for key in conflicting):,} of them with another target"
    given = {name, split} <= source.given
    if result.chance:
        message += " (rows of few or coarse columns may be equal by coincidence)"
    elif not given:
        message += " (dlcli has split the data at random)"
    worst_first = sorted(shared, key=lambda key: key not in conflicting)
    examples = tuple(
        _equal_ids(source, [seen[key][0], held_out[key][0]], result, targets=key in conflicting)
        for key in worst_first[:EXAMPLES]
    )
    share = count / len(source.splits[split])
    is_severe = share >= LEAK_SHARE and (split == "test" or bool(conflicting))
    is_error = given and not result.chance and (is_severe or share >= CHANCE_SHARE)
    level: Level = "error" if is_error else "warning"
    return [Finding(level, "leak", message, examples, _REMOVE_FROM_ONE_SPLIT if given else _REMOVE)]


def _target(source: DataSource, position: Position) -> Hashable:
    split, index = position
    target = source.splits[split].targets[index]
    return bytes(target.tobytes()) if target.ndim else int(target)


def _equal_ids(
    source: DataSource, group: list[Position], result: CheckResult, *, targets: bool = False
) -> str:
    """``train/3 = train/8: what is a tonne ?``, with the targets where they differ."""
    if targets:  # one of each target
        by_target = {_target(source, position): position for position in reversed(group)}
        group = list(by_target.values())[::-1]
    names = []
    for split, index in group[:3]:
        samples = source.splits[split]
        names.append(samples.ids[index])
        if targets:
            names[-1] += f" ({target_text(source, samples, index)})"
    excerpt = result.quote(source.splits[group[-1][0]], group[-1][1])
    return " = ".join([*names, *(["..."] if len(group) > 3 else [])]) + (excerpt and f": {excerpt}")
