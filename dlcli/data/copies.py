"""Exact copies among samples: in one split they stay together, in given splits they are a leak."""

from __future__ import annotations

from collections.abc import Hashable

from dlcli.data.base import DataSource, Samples
from dlcli.data.notices import Notice

# A smaller share of copies changes no metric by more than its own uncertainty.
LEAK_SHARE = 0.01
# Of rows that are equal by chance: a held-out split that is mostly a copy is none.
CHANCE_SHARE = 0.5


def copy_units(samples: Samples) -> list[str]:
    """The unit of each sample: the least id among its exact copies, its own id without any.

    Rows of a table may be equal by chance; where most are, each is a unit of its own.
    """
    keys = samples.items.contents([samples.items])
    if keys is None:
        return list(samples.ids)
    least: dict[Hashable, str] = {}
    for id_, key in zip(samples.ids, keys[0], strict=True):
        least[key] = min(least.get(key, id_), id_)
    if samples.items.equal_by_chance and len(least) < CHANCE_SHARE * len(samples):
        return list(samples.ids)
    return [least[key] for key in keys[0]]


def leak_notices(source: DataSource) -> list[Notice]:
    """Warn where a given split has samples of train: they are remembered, not predicted."""
    train = source.splits["train"]
    held_out = [
        name for name in ("val", "test") if {name, "train"} <= source.given and name in source.splits
    ]
    if not held_out:
        return []
    parts = [train.items, *(source.splits[name].items for name in held_out)]
    keys = train.items.contents(parts)
    if keys is None:
        return []
    seen, notices = set(keys[0]), []
    for name, held in zip(held_out, keys[1:], strict=True):
        count = sum(key in seen for key in held)
        if count >= (CHANCE_SHARE if train.items.equal_by_chance else LEAK_SHARE) * len(held):
            share = "all" if count == len(held) else f"{count:,} of the"
            message = f"{share} {len(held):,} samples of {name} are in train too: "
            message += "they are remembered, not predicted"
            notices.append(Notice(message, "leak", "warning"))
    return notices
