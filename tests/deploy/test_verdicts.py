"""Verdicts in words: what an interval, a ratio or a bound does not show is not claimed."""

from __future__ import annotations

import math

import pytest

from dlcli.benchmark.statistics import Ratio
from dlcli.deploy.compare import Comparison, MeasuredModel
from dlcli.deploy.reference import MetricDelta
from dlcli.deploy.verdicts import verdict


def test_without_an_interval_no_difference_is_claimed() -> None:
    model = MeasuredModel("best.safetensors", "torch", 10, 1, {}, {}, {"f1_macro": 0.9})
    unknown = MetricDelta({"f1_macro": 0.4}, "f1_macro", 0.9, -0.5, -math.inf, math.inf, 0.5, 0.4)
    sentence = verdict(Comparison(model, model, unknown, "val", 100, "", {}, "cpu"))[0]
    assert "interval is not known" in sentence
    assert "no difference" not in sentence


@pytest.mark.parametrize(
    ("rounds", "sentence"),
    [
        ((6.9, 6.0, 3774.0), "speed at batch 1 NOT KNOWN: 6.00 to 3774.00 times as fast"),
        ((6.9, 6.0, 9.0), "6.90 times faster at batch 1"),
        ((1.1, 0.9, 1.4), "no significant difference in speed at batch 1"),
        ((0.5, 0.4, 0.7), "SLOWER at batch 1: 0.50 of the speed"),
    ],
)
def test_a_ratio_that_varies_between_rounds_gives_no_verdict(
    rounds: tuple[float, float, float], sentence: str
) -> None:
    model = MeasuredModel("best.safetensors", "torch", 10, 1, {}, {}, {"accuracy": 0.9})
    same = MetricDelta({"accuracy": 0.9}, "accuracy", 0.9, 0.0, -0.01, 0.01, 0.0, 1.0)
    comparison = Comparison(model, model, same, "val", 100, "", {"1": Ratio(*rounds)}, "cpu")
    assert verdict(comparison, expect_smaller=False)[1].startswith(sentence)
