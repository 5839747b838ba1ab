"""What is to be predicted: the balance of classes and labels, the spread of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlcli.data.base import DataSource
from dlcli.datacheck.base import (
    Balance,
    Cell,
    Histogram,
    Numbers,
    Part,
    Table,
    counted,
    share,
)
from dlcli.task import TaskKind

# The largest class beside the smallest: from here on accuracy hides the small ones.
_UNEVEN, _VERY_UNEVEN = 3.0, 10.0
# What to do about uneven classes, for each task that has classes.
_HINTS: dict[TaskKind, str] = {
    "classification": "judge by f1_macro or balanced_accuracy; --balance weights trains against it",
    "multilabel": "judge by f1_macro",
    "embedding": "--balance sampler trains against it",
}
_FEW = 10  # training samples of a class that are too few to learn it from
# One value in so many samples, among so many different ones, looks like the end of a scale.
_PILED, _DIFFERENT = 0.01, 50


def check_targets(source: DataSource) -> Part:
    """Balance and gaps of classes, or the spread of numeric targets."""
    part = Part()
    if source.task in _HINTS:
        _classes(source, part)
    elif source.task == "regression":
        _numbers(source, part)
    return part


def class_counts(source: DataSource) -> dict[str, Numbers]:
    """Samples of each class, or with each label: split to int64 (K,)."""
    if source.task == "multilabel":
        return {s: samples.targets.sum(axis=0, dtype=np.int64) for s, samples in source.splits.items()}
    classes = len(source.class_names)
    return {s: np.bincount(part.targets, minlength=classes) for s, part in source.splits.items()}


def piled(values: Numbers) -> list[tuple[float, int]]:
    """The least and the largest value with how often they occur, where that is suspiciously often.

    ``values`` are finite. Zero is a natural end, and so is an end that is no more frequent than others.
    """
    different, counts = np.unique(values, return_counts=True)
    if len(different) < _DIFFERENT:
        return []
    found = []
    for end, inner in ((0, counts[1:6]), (-1, counts[-6:-1])):
        often = int(counts[end])
        if different[end] != 0 and often >= max(20, _PILED * len(values)) and often > 4 * inner.max():
            found.append((float(different[end]), often))
    return found


def split_facts(source: DataSource) -> dict[str, dict[str, Any]]:
    """Samples of each split, whether it was given, and its classes."""
    has_classes = source.task in _HINTS
    counts = class_counts(source) if has_classes else {}
    return {
        split: {
            "samples": len(samples),
            "given": split in source.given,
            **(
                {"classes": dict(zip(source.class_names, counts[split].tolist(), strict=True))}
                if has_classes
                else {}
            ),
        }
        for split, samples in source.splits.items()
    }


def _classes(source: DataSource, part: Part) -> None:
    counts, names = class_counts(source), source.class_names
    noun = "label" if source.task == "multilabel" else "class"
    part.facts[f"{'labels' if noun == 'label' else 'classes'}"] = f"{len(names):,}"
    order = np.arange(len(names))
    if len(names) > 30:  # where not all are shown, the largest and the smallest are
        order = np.argsort(-counts["train"], kind="stable")
    total = len(source.splits["train"])
    rows: list[tuple[Cell, ...]] = [
        (
            names[k],
            *(int(counts[split][k]) for split in counts),
            share(int(counts["train"][k]), total),
        )
        for k in order.tolist()
    ]
    title = counted(len(names), noun) + (" by size in train" if len(names) > 30 else "")
    part.tables.append(Table("classes", title, (noun, *counts, "of train"), tuple(rows)))
    part.charts.append(Balance("class-balance", f"samples of each {noun}", names, counts))
    _missing_classes(source, counts, part, noun)
    _balance(source, counts["train"], part, noun)
    if source.task == "multilabel":
        train = source.splits["train"].targets
        per = train.sum(axis=1)
        part.facts["labels a sample"] = f"mean {per.mean():.2f}, {per.min()} to {per.max()}"
        bare = int((per == 0).sum())
        if bare:
            part.find("note", "no-label", f"train: {bare:,} of {total:,} samples have no label at all")


def _missing_classes(source: DataSource, counts: dict[str, Numbers], part: Part, noun: str) -> None:
    for split, having in counts.items():
        lacking = [source.class_names[k] for k in np.flatnonzero(having == 0)]
        if not lacking:
            continue
        if split in source.given or split == "train":
            hint = f"the figures of {split} say nothing of it"
            message = f"{split} has no sample of {counted(len(lacking), noun)}"
            part.find("warning", "missing-class", message, examples=lacking, hint=hint)
        else:
            message = (
                f"{counted(len(lacking), noun)} too small for dlcli to hold a sample out for {split}"
            )
            part.find("note", "missing-class", message, examples=lacking)


def _balance(source: DataSource, train: Numbers, part: Part, noun: str) -> None:
    there = train[train > 0]
    if not len(there):
        return
    ratio = float(there.max() / there.min())
    large, small = (
        source.class_names[int(k)] for k in (train.argmax(), np.where(train > 0, train, 2**62).argmin())
    )
    part.facts["balance"] = f"largest {noun} {there.max():,}, smallest {there.min():,} in train" + (
        f" ({_times(ratio)} to 1)" if ratio > 1 else ""
    )
    if ratio >= _UNEVEN:
        part.find(
            "warning" if ratio >= _VERY_UNEVEN else "note",
            "imbalance",
            f"train has {_times(ratio)} times as many samples of {large} as of {small}",
            hint=_HINTS[source.task],
        )
    few = [f"{source.class_names[k]} {train[k]}" for k in np.argsort(train) if 0 < train[k] < _FEW]
    if few:
        message = f"{counted(len(few), noun)} with fewer than {_FEW} samples in train"
        part.find("warning", "few-samples", message, examples=few, hint="hardly enough to learn it from")


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _numbers(source: DataSource, part: Part) -> None:
    rows: list[tuple[Cell, ...]] = []
    for column, name in enumerate(source.target_names):
        by_split = {s: samples.targets[:, column] for s, samples in source.splits.items()}
        for split, values in by_split.items():
            figures = (values.min(), np.median(values), values.max(), values.mean(), values.std())
            rows.append((name, split, *(float(figure) for figure in figures)))
        part.charts.append(
            Histogram("target" if not column else f"target-{column + 1}", "target", name, by_split)
        )
        train = by_split["train"]
        for value, often in piled(train):
            part.find(
                "note",
                "piled-target",
                f"{often:,} of {len(train):,} samples in train ({share(often, len(train))}) have the "
                f"{'largest' if value == train.max() else 'smallest'} {name}, {value:.10g}: "
                "a scale that was cut off there?",
            )
    columns = ("target", "split", "min", "median", "max", "mean", "std")
    part.tables.append(Table("targets", "target, in the data's own units", columns, tuple(rows)))
