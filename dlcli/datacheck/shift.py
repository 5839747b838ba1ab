"""Distribution shift between the training split and the held-out ones."""

from __future__ import annotations

import math

import numpy as np

from dlcli.datacheck.base import Balance, Chart, Finding, Histogram, Numbers, percent

# A shift must be large, and significant: the critical value of Kolmogorov and Smirnov's test at 0.001.
_MIN_DISTANCE, _CRITICAL_VALUE = 0.15, 1.95
_MAX_NAMED_CLASSES = 3


def find_shifts(charts: list[Chart]) -> list[Finding]:
    """Return a note for each held-out split whose distribution differs from that of train."""
    findings = []
    for chart in charts:
        if isinstance(chart, Histogram):
            findings += _numbers(chart)
        elif isinstance(chart, Balance):
            findings += _classes(chart)
    return findings


def ks_statistic(one: Numbers, other: Numbers) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic: 0 equal distributions, 1 disjoint ones."""
    pooled = np.concatenate([one, other])
    cdfs = [np.searchsorted(np.sort(side), pooled, side="right") / len(side) for side in (one, other)]
    return float(np.abs(cdfs[0] - cdfs[1]).max())


def _numbers(chart: Histogram) -> list[Finding]:
    values = {split: v[np.isfinite(v)] for split, v in chart.values.items()}
    train, findings = values["train"], []
    for split, held_out in values.items():
        if split == "train" or not len(held_out) or not len(train):
            continue
        distance = ks_statistic(train, held_out)
        scale = math.sqrt(len(train) * len(held_out) / (len(train) + len(held_out)))
        if distance > _MIN_DISTANCE and distance * scale > _CRITICAL_VALUE:
            medians = f"median {np.median(held_out):.4g} against {np.median(train):.4g}"
            message = f"{chart.title} ({chart.axis}): {split} differs from train, {medians}"
            findings.append(_finding(message))
    return findings


def _classes(chart: Balance) -> list[Finding]:
    train = np.asarray(chart.counts["train"], dtype=np.float64)
    findings = []
    for split, counts in chart.counts.items():
        total = counts.sum()
        if split == "train" or not total or not train.sum():
            continue
        difference = counts / total - train / train.sum()
        # The total variation distance of a random sample: about the sum of the standard errors.
        expected = np.sqrt(train / train.sum() * (1 - train / train.sum()) / total).sum() / 2
        if np.abs(difference).sum() / 2 > max(_MIN_DISTANCE, 2 * expected):
            most = np.argsort(-np.abs(difference), kind="stable")[:_MAX_NAMED_CLASSES].tolist()
            named = ", ".join(
                f"{chart.classes[k]} {percent(int(counts[k]), int(total))} against "
                f"{percent(int(train[k]), int(train.sum()))}"
                for k in most
            )
            findings.append(_finding(f"{split} has other shares of the classes than train: {named}"))
    return findings


def _finding(message: str) -> Finding:
    hint = "expect other metrics on it than on a random part of train"
    return Finding("note", "shift", message, hint=hint)
