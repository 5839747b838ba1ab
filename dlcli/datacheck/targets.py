"""Targets: balance of classes and labels, distribution of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlcli.data.base import DataSource
from dlcli.datacheck.base import (
    Balance,
    Cell,
    CheckResult,
    Histogram,
    Numbers,
    Table,
    percent,
)
from dlcli.task import TaskKind
from dlcli.wording import plural

# Ratio of the largest class to the smallest for a note, and for a warning.
_IMBALANCE, _SEVERE_IMBALANCE = 3.0, 10.0
# What to do about imbalance, for each task that has classes.
_HINTS: dict[TaskKind, str] = {
    "classification": "judge by f1_macro or balanced_accuracy; --balance weights counteracts it",
    "multilabel": "judge by f1_macro",
    "embedding": "--balance sampler counteracts it",
}
_MIN_CLASS_SAMPLES = 10  # training samples of a class
# A smallest or largest value in this share of the samples, among so many distinct ones, looks clipped.
_PILED_SHARE, _MIN_DISTINCT = 0.01, 50


def check_targets(source: DataSource) -> CheckResult:
    """Check balance and missing classes, or the distribution of numeric targets."""
    result = CheckResult()
    if source.task in _HINTS:
        _check_classes(source, result)
    elif source.task == "regression":
        _check_numbers(source, result)
    return result


def class_counts(source: DataSource) -> dict[str, Numbers]:
    """Return the samples of each class or label, int64 (K,), by split."""
    if source.task == "multilabel":
        return {s: samples.targets.sum(axis=0, dtype=np.int64) for s, samples in source.splits.items()}
    classes = len(source.class_names)
    return {s: np.bincount(samples.targets, minlength=classes) for s, samples in source.splits.items()}


def piled_ends(values: Numbers) -> list[tuple[float, int]]:
    """Return the smallest and largest value with their counts, where the values look clipped there.

    ``values`` are finite. Zero is a natural end, and so is one as frequent as its neighbours.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) < _MIN_DISTINCT:
        return []
    ends = []
    for end, inner in ((0, counts[1:6]), (-1, counts[-6:-1])):
        count = int(counts[end])
        if (
            distinct[end] != 0
            and count >= max(20, _PILED_SHARE * len(values))
            and count > 4 * inner.max()
        ):
            ends.append((float(distinct[end]), count))
    return ends


def split_facts(source: DataSource) -> dict[str, dict[str, Any]]:
    """Return the samples of each split, whether it was given, and its classes."""
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


def _check_classes(source: DataSource, result: CheckResult) -> None:
    counts, names = class_counts(source), source.class_names
    noun = "label" if source.task == "multilabel" else "class"
    result.facts[f"{'labels' if noun == 'label' else 'classes'}"] = f"{len(names):,}"
    order = np.arange(len(names))
    if len(names) > 30:  # where not all are shown, the largest and the smallest are
        order = np.argsort(-counts["train"], kind="stable")
    total = len(source.splits["train"])
    rows: list[tuple[Cell, ...]] = [
        (
            names[k],
            *(int(counts[split][k]) for split in counts),
            percent(int(counts["train"][k]), total),
        )
        for k in order.tolist()
    ]
    title = plural(len(names), noun) + (" by size in train" if len(names) > 30 else "")
    result.tables.append(Table("classes", title, (noun, *counts, "of train"), tuple(rows)))
    result.charts.append(Balance("class-balance", f"samples of each {noun}", names, counts))
    _check_missing_classes(source, counts, result, noun)
    _check_balance(source, counts["train"], result, noun)
    if source.task == "multilabel":
        train = source.splits["train"].targets
        per = train.sum(axis=1)
        result.facts["labels a sample"] = f"mean {per.mean():.2f}, {per.min()} to {per.max()}"
        bare = int((per == 0).sum())
        if bare:
            result.report(
                "note", "no-label", f"train: {bare:,} of {total:,} samples have no label at all"
            )


def _check_missing_classes(
    source: DataSource, counts: dict[str, Numbers], result: CheckResult, noun: str
) -> None:
    for split, by_class in counts.items():
        lacking = [source.class_names[k] for k in np.flatnonzero(by_class == 0)]
        if not lacking:
            continue
        if split in source.given or split == "train":
            hint = f"the metrics of {split} do not cover it"
            message = f"{split} has no sample of {plural(len(lacking), noun)}"
            result.report("warning", "missing-class", message, examples=lacking, hint=hint)
        else:
            message = (
                f"{plural(len(lacking), noun)} too small for dlcli to hold a sample out for {split}"
            )
            result.report("note", "missing-class", message, examples=lacking)


def _check_balance(source: DataSource, train: Numbers, result: CheckResult, noun: str) -> None:
    present = train[train > 0]
    if not len(present):
        return
    ratio = float(present.max() / present.min())
    large, small = (
        source.class_names[int(k)] for k in (train.argmax(), np.where(train > 0, train, 2**62).argmin())
    )
    result.facts["balance"] = (
        f"largest {noun} {present.max():,}, smallest {present.min():,} in train"
        + (f" ({_times(ratio)} to 1)" if ratio > 1 else "")
    )
    if ratio >= _IMBALANCE:
        result.report(
            "warning" if ratio >= _SEVERE_IMBALANCE else "note",
            "imbalance",
            f"train has {_times(ratio)} times as many samples of {large} as of {small}",
            hint=_HINTS[source.task],
        )
    few = [
        f"{source.class_names[k]} {train[k]}"
        for k in np.argsort(train)
        if 0 < train[k] < _MIN_CLASS_SAMPLES
    ]
    if few:
        message = f"{plural(len(few), noun)} with fewer than {_MIN_CLASS_SAMPLES} samples in train"
        result.report("warning", "few-samples", message, examples=few, hint="too few to learn it")


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _check_numbers(source: DataSource, result: CheckResult) -> None:
    rows: list[tuple[Cell, ...]] = []
    for column, name in enumerate(source.target_names):
        by_split = {s: samples.targets[:, column] for s, samples in source.splits.items()}
        for split, values in by_split.items():
            statistics = (values.min(), np.median(values), values.max(), values.mean(), values.std())
            rows.append((name, split, *(float(value) for value in statistics)))
        result.charts.append(
            Histogram("target" if not column else f"target-{column + 1}", "target", name, by_split)
        )
        train = by_split["train"]
        for value, count in piled_ends(train):
            result.report(
                "note",
                "piled-target",
                f"{count:,} of {len(train):,} samples in train ({percent(count, len(train))}) have the "
                f"{'largest' if value == train.max() else 'smallest'} {name}, {value:.10g}: "
                "were they clipped there?",
            )
    columns = ("target", "split", "min", "median", "max", "mean", "std")
    result.tables.append(Table("targets", "target, in the data's own units", columns, tuple(rows)))
