"""Reliability bins and the calibration error, against torchmetrics; exact for any batching."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from dlcli.evaluation.metrics import ClassificationCounts
from dlcli.evaluation.metrics.reliability import (
    BINS,
    expected_calibration_error,
    reliability_bins,
)
from dlcli.evaluation.probabilities import softmax


def counted(logits: np.ndarray, targets: np.ndarray, *ends: int) -> ClassificationCounts:
    counts = ClassificationCounts(logits.shape[1])
    for start, end in zip((0, *ends), (*ends, len(logits)), strict=True):
        counts.update(logits[start:end], targets[start:end])
    return counts


@pytest.mark.parametrize("classes", [2, 5, 77])
def test_equals_torchmetrics(classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits = (3 * rng.normal(size=(500, classes))).astype(np.float32)
    targets = rng.integers(0, classes, 500)
    own = counted(logits, targets).metrics()["ece"]
    probabilities = torch.from_numpy(softmax(logits))
    other = multiclass_calibration_error(
        probabilities, torch.from_numpy(targets), classes, n_bins=BINS, norm="l1"
    )
    assert own == pytest.approx(float(other), abs=1e-6)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=4).map(sorted), st.randoms())
def test_the_bits_do_not_depend_on_batches_or_order(ends: list[int], random: object) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 4)).astype(np.float32)
    targets = rng.integers(0, 4, 60)
    order = np.arange(60)
    random.shuffle(order)  # type: ignore[attr-defined]
    whole, parts = counted(logits, targets), counted(logits[order], targets[order], *ends)
    one, other = (c.result("val", "abcd") for c in (whole, parts))
    assert one.reliability == other.reliability
    assert one.metrics["ece"] == other.metrics["ece"]
    assert sum(part.samples for part in one.reliability) == 60
    assert whole.value("ece", np.arange(60)) == one.metrics["ece"]


def test_bins_hold_their_samples() -> None:
    bins = reliability_bins(np.array([0.05, 0.99, 1.0, np.nan]), np.array([0.0, 1.0, 0.0, 1.0]))
    assert [(b.samples, b.accuracy) for b in bins] == [(1, 0.0), (2, 0.5)]
    assert bins[-1].high == 1
    assert bins[-1].confidence == pytest.approx(0.995)
    assert all(b.low <= b.confidence <= b.high for b in bins)


def test_perfect_and_unknown() -> None:
    assert expected_calibration_error(np.ones(4), np.ones(4)) == 0
    assert expected_calibration_error(np.ones(4), np.zeros(4)) == 1
    assert math.isnan(expected_calibration_error(np.array([np.nan]), np.array([0.0])))
    assert reliability_bins(np.zeros(0), np.zeros(0)) == ()
