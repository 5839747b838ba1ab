"""What a data set holds, in a few numbers a split. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlcli.data.base import DataSource, Floats, Samples

CLASSES = 1000  # more have no row each
QUANTILES = {"min": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "max": 1.0}


def summarize_source(source: DataSource) -> dict[str, Any]:
    """Return the name and kind of a data set, and of each split its samples and targets, JSON-ready.

    ``classes`` are the samples of each class or label, ``targets`` the quantiles of each number that is
    predicted, in the data's units. ``given`` says whether the split is the source's own.
    """
    splits = {}
    for name, samples in source.splits.items():
        facts: dict[str, Any] = {"samples": len(samples), "given": name in source.given}
        splits[name] = facts | _targets(source, samples)
    return {"name": source.name, "origin": source.origin, "kind": source.kind, "splits": splits}


def _targets(source: DataSource, samples: Samples) -> dict[str, Any]:
    targets, names = samples.targets, source.class_names
    if source.task in ("classification", "embedding", "multilabel"):
        if len(names) > CLASSES or not len(targets):
            return {}
        several = source.task == "multilabel"
        counts = targets.sum(axis=0) if several else np.bincount(targets, minlength=len(names))
        return {"classes": dict(zip(names, map(int, counts), strict=True))}
    if source.task == "regression" and len(targets):
        return {"targets": dict(zip(source.target_names, map(_quantiles, targets.T), strict=True))}
    return {}


def _quantiles(values: Floats) -> dict[str, float | None]:
    """Return the quantiles of the finite values (N,); None without any."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return dict.fromkeys(QUANTILES)
    return dict(zip(QUANTILES, np.quantile(finite, list(QUANTILES.values())).tolist(), strict=True))
