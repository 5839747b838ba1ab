"""Samples of the same content: copies, contradictions, and leaks from one split into another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import combinations

from dlcli.data.base import DataSource
from dlcli.data.notices import Level
from dlcli.datacheck.base import EXAMPLES, Finding, Part, class_of, counted

_Members = dict[Hashable, list[tuple[str, int]]]  # content to (split, position)
_APART = "take the copies out of one of the two"
_ONCE = "take the copies out of the data, or its figures are too good"


def find_duplicates(source: DataSource, part: Part) -> None:
    """Add the findings on equal contents to ``part``.

    The same content in two splits is an error where both splits were given and one of them is test,
    or the targets differ: the test figure would be partly memory. It is a warning between train and
    val, where dlcli made one of the splits, and where equal samples may be chance (``part.chance``).
    Copies inside a split are warnings; by chance, notes.
    """
    for split in part.contents:
        part.findings += _inside(source, split, _members(part, [split]), part)
    for name, seen, held in _sides(source, part):
        part.findings += _across(source, part, name, _members(part, seen), held)


def _sides(source: DataSource, part: Part) -> list[tuple[str, list[str], str]]:
    """What is held against what: a name, its splits, and the later split, which should be unseen.

    A val that dlcli took out of a given train is train to the test split.
    """
    splits = list(part.contents)
    if "test" in source.given and "val" in splits and "val" not in source.given:
        sides = [("train", ["train"], "val"), ("train", ["train", "val"], "test")]
    else:
        sides = [(first, [first], second) for first, second in combinations(splits, 2)]
    return [side for side in sides if side[2] in splits]


def _members(part: Part, splits: Iterable[str]) -> _Members:
    found: _Members = defaultdict(list)
    for split in splits:
        for index, key in enumerate(part.contents[split]):
            if key is not None:
                found[key].append((split, index))
    return found


def _inside(source: DataSource, split: str, members: _Members, part: Part) -> list[Finding]:
    groups = [group for group in members.values() if len(group) > 1]
    if not groups:
        return []
    extra = sum(len(group) - 1 for group in groups)
    against = [group for group in groups if len({_target(source, at) for at in group}) > 1]
    alike = [group for group in groups if group not in against] or groups
    found = [
        Finding(
            "note" if part.chance else "warning",
            "duplicates",
            f"{split}: {counted(extra, part.noun)} of {len(source.splits[split]):,} "
            f"repeat{'s' if extra == 1 else ''} another one of this split",
            tuple(_shown(source, group, part) for group in alike[:EXAMPLES]),
            None if part.chance else "a copy counts twice, in training and in every figure",
        )
    ]
    if against:
        found.append(
            Finding(
                "note" if part.chance or source.task == "regression" else "warning",
                "conflicting-targets",
                f"{split}: {counted(sum(map(len, against)), part.noun)} with the content of another one "
                "but not its target: no model can get both right",
                tuple(_shown(source, group, part, targets=True) for group in against[:EXAMPLES]),
                None if part.chance else "keep the right one",
            )
        )
    return found


def _across(source: DataSource, part: Part, name: str, seen: _Members, split: str) -> list[Finding]:
    """The samples of ``split`` that are in ``seen``, the splits called ``name``, too."""
    held = _members(part, [split])
    shared = [key for key in held if key in seen]
    if not shared:
        return []
    against = {
        key
        for key in shared
        if {_target(source, at) for at in held[key]} != {_target(source, at) for at in seen[key]}
    }
    count = sum(len(held[key]) for key in shared)
    message = (
        f"{counted(count, part.noun)} of the {len(source.splits[split]):,} in {split} "
        f"{'is' if count == 1 else 'are'} in {name} too"
    )
    if against:
        message += f", {sum(len(held[key]) for key in against):,} of them with another target"
    given = {name, split} <= source.given
    if part.chance:
        message += " (rows of few or coarse columns may be equal by chance)"
    elif not given:
        message += " (dlcli has split the data at random)"
    worst_first = sorted(shared, key=lambda key: key not in against)
    examples = tuple(
        _shown(source, [seen[key][0], held[key][0]], part, targets=key in against)
        for key in worst_first[:EXAMPLES]
    )
    serious = given and not part.chance and (split == "test" or bool(against))
    level: Level = "error" if serious else "warning"
    return [Finding(level, "leak", message, examples, _APART if given else _ONCE)]


def _target(source: DataSource, at: tuple[str, int]) -> Hashable:
    split, index = at
    target = source.splits[split].targets[index]
    return bytes(target.tobytes()) if target.ndim else int(target)


def _shown(
    source: DataSource, group: list[tuple[str, int]], part: Part, *, targets: bool = False
) -> str:
    """``train/3 = train/8: what is a tonne ?``, with the targets where they matter."""
    if targets:  # one of each target
        group = list({_target(source, at): at for at in reversed(group)}.values())[::-1]
    names = []
    for split, index in group[:3]:
        samples = source.splits[split]
        names.append(samples.ids[index])
        if targets:
            names[-1] += f" ({class_of(source, samples, index)})"
    words = part.quote(source.splits[group[-1][0]], group[-1][1])
    return " = ".join([*names, *(["..."] if len(group) > 3 else [])]) + (words and f": {words}")
