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


def test_a_difference_of_rounding_is_no_difference() -> None:
    model = MeasuredModel("best.safetensors", "torch", 10, 1, {}, {}, {"mse": 0.5})
    tiny = MetricDelta({"mse": 0.5}, "mse", 0.5, 5.3e-9, 1.2e-9, 7.1e-9, 5.3e-9, None)
    sentence = verdict(Comparison(model, model, tiny, "val", 16, "", {}, "cpu"))[0]
    assert sentence.endswith("equal up to rounding")


def _comparison(ratio: Ratio, **facts: object) -> Comparison:
    model = MeasuredModel("best.safetensors", "torch", 10, 1, {}, {}, {"accuracy": 0.9})
    same = MetricDelta({"accuracy": 0.9}, "accuracy", 0.9, 0.0, -0.01, 0.01, 0.0, 1.0)
    return Comparison(model, model, same, "val", 100, "", {"1": ratio}, "cpu", **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ratio", "sentence"),
    [
        (Ratio(6.9, 6.0, 9.0), "6.90 times faster at batch 1"),
        (Ratio(1.37, 0.75, 2.19), "no significant difference in speed at batch 1"),
        (Ratio(0.5, 0.4, 0.7), "SLOWER at batch 1: 0.50 of the speed"),
        (Ratio(6.9, 6.0, 3774.0, "others ran"), "speed at batch 1 NOT KNOWN: others ran"),
        (Ratio(6.9, 6.8, 7.0, "others ran"), "speed at batch 1 NOT KNOWN: others ran"),
    ],
)
def test_the_word_on_speed_follows_from_the_interval_and_its_doubt(ratio: Ratio, sentence: str) -> None:
    assert verdict(_comparison(ratio), expect_smaller=False)[1] == sentence


def test_cpu_time_is_named_and_what_was_not_timed_too() -> None:
    comparison = _comparison(Ratio(6.9, 6.0, 9.0), clock="cpu", untimed="batch 32: it is too large")
    sentences = verdict(comparison, expect_smaller=False)
    assert sentences[1] == "6.90 times faster at batch 1, in CPU time of one thread"
    assert sentences[2] == "speed not known: batch 32: it is too large"
    assert comparison.to_dict()["clock"] == "cpu"
