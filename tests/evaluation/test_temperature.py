"""Temperatures: they minimise the NLL, undo a scale of the logits; where none is best, it is said."""

from __future__ import annotations

import numpy as np
import pytest

from dlcli.errors import DlcliError
from dlcli.evaluation.metrics import cross_entropy
from dlcli.evaluation.metrics.multilabel import binary_cross_entropy
from dlcli.evaluation.probabilities import softmax
from dlcli.evaluation.temperature import FEWEST_SAMPLES, TemperatureFit, fit_temperature
from dlcli.task import TaskKind

KINDS: tuple[TaskKind, ...] = ("classification", "multilabel")


def calibrated(kind: TaskKind, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are those that the targets are drawn with."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(samples, 4)) * 2
    if kind == "multilabel":
        return logits, (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    draws = rng.random((samples, 1))
    return logits, (softmax(logits).cumsum(axis=1) < draws).sum(axis=1).clip(max=3)


def nll(kind: TaskKind, logits: np.ndarray, targets: np.ndarray) -> float:
    losses = binary_cross_entropy if kind == "multilabel" else cross_entropy
    return float(losses(logits, targets).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_a_temperature_is_the_factor_that_calibrated_logits_were_multiplied_by(
    kind: TaskKind, scale: float
) -> None:
    logits, targets = calibrated(kind, 20_000)
    fit = fit_temperature(logits * scale, targets, kind)
    assert fit.temperature == pytest.approx(scale, rel=0.03)
    assert fit.calibrated == pytest.approx(nll(kind, logits, targets), rel=1e-3)
    assert fit.log_loss == pytest.approx(nll(kind, logits * scale, targets), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_temperature_has_a_lower_nll(kind: TaskKind) -> None:
    logits, targets = calibrated(kind, 500, seed=1)
    fit = fit_temperature(logits * 2.5, targets, kind)
    for factor in (0.5, 0.99, 1.01, 2.0):
        assert nll(kind, logits * 2.5 / (fit.temperature * factor), targets) > fit.calibrated
    assert fit.calibrated <= fit.held_out < fit.log_loss
    assert fit.helps


def test_a_temperature_helps_only_where_it_does_on_samples_that_it_was_not_fitted_on() -> None:
    helped = {
        fit_temperature(*calibrated("classification", 100, seed), "classification").helps
        for seed in range(12)
    }
    assert helped == {True, False}  # calibrated logits: a fit finds noise
    assert not TemperatureFit(1.1, 100, 0.5, 0.49, 0.5).helps


def test_many_logits_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = calibrated("classification", 5000)
    monkeypatch.setattr("dlcli.evaluation.temperature.MAX_LOGITS", 4 * 1000)
    fit = fit_temperature(logits * 3, targets, "classification")
    assert fit.samples == 1000
    assert fit.temperature == pytest.approx(3, rel=0.2)


def test_what_defines_no_temperature_is_refused() -> None:
    logits, targets = calibrated("classification", 400)

    def refused(*args: np.ndarray) -> str:
        with pytest.raises(DlcliError) as error:
            fit_temperature(*args, "classification")
        return error.value.message

    assert f"needs {FEWEST_SAMPLES} or more" in refused(logits[:99], targets[:99])
    broken = logits.copy()
    broken[3, 1] = np.nan
    assert "1 val samples is NaN or infinite" in refused(broken, targets)
    assert "the more certain it is" in refused(np.eye(4)[targets], targets)  # all right
    assert "no better than equal ones" in refused(-logits, targets)
