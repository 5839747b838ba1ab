"""Whether a held-out split looks like another population than the training split."""

from __future__ import annotations

import math

import numpy as np

from dlcli.datacheck.base import Balance, Chart, Finding, Histogram, Numbers, share

# A difference must be large, and larger than chance would have it (about one time in a thousand).
_FAR, _CHANCE = 0.15, 1.95
_NAMED = 3  # classes


def find_shifts(charts: list[Chart]) -> list[Finding]:
    """A note for every chart whose held-out splits differ from train, as they may by intent."""
    found = []
    for chart in charts:
        if isinstance(chart, Histogram):
            found += _numbers(chart)
        elif isinstance(chart, Balance):
            found += _classes(chart)
    return found


def distance(one: Numbers, other: Numbers) -> float:
    """The largest difference of the distribution functions (Kolmogorov, Smirnov): 0 alike, 1 apart."""
    every = np.concatenate([one, other])
    below = [np.searchsorted(np.sort(side), every, side="right") / len(side) for side in (one, other)]
    return float(np.abs(below[0] - below[1]).max())


def _numbers(chart: Histogram) -> list[Finding]:
    values = {split: v[np.isfinite(v)] for split, v in chart.values.items()}
    train, found = values["train"], []
    for split, held in values.items():
        if split == "train" or not len(held) or not len(train):
            continue
        far = distance(train, held)
        if far > _FAR and far * math.sqrt(len(train) * len(held) / (len(train) + len(held))) > _CHANCE:
            middle = f"median {np.median(held):.4g} against {np.median(train):.4g}"
            found.append(_finding(f"{chart.title} ({chart.axis}): {split} differs from train, {middle}"))
    return found


def _classes(chart: Balance) -> list[Finding]:
    train = np.asarray(chart.counts["train"], dtype=np.float64)
    found = []
    for split, counts in chart.counts.items():
        total = counts.sum()
        if split == "train" or not total or not train.sum():
            continue
        apart = counts / total - train / train.sum()
        # What chance makes of the same shares: about the sum of their deviations.
        usual = np.sqrt(train / train.sum() * (1 - train / train.sum()) / total).sum() / 2
        if np.abs(apart).sum() / 2 > max(_FAR, 2 * usual):
            most = np.argsort(-np.abs(apart), kind="stable")[:_NAMED].tolist()
            named = ", ".join(
                f"{chart.classes[k]} {share(int(counts[k]), int(total))} against "
                f"{share(int(train[k]), int(train.sum()))}"
                for k in most
            )
            found.append(_finding(f"{split} has other shares of the classes than train: {named}"))
    return found


def _finding(message: str) -> Finding:
    hint = "expect another figure on it than on a random part of train"
    return Finding("note", "shift", message, hint=hint)
