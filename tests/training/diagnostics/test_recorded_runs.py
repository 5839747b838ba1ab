"""Hints on the figures of real short runs: the right one where something is wrong, else none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dlcli.events import EpochDone, RunFinished, RunStarted
from dlcli.training.diagnostics.hints import Hints

RUNS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "recorded-runs.json").read_text(encoding="utf-8")
)
# The beginning of each hint that is right for a run.
RIGHT = {
    "onecycle-peak-high-rate": [],  # train and val are worse around the peak, and best at the end
    "onecycle-healthy": [],
    "onecycle-peak-series": [],
    "small-validation-constant-rate": [],  # 30 samples; the last epoch but one is the best
    "over-fitting-onecycle": ["over-fitting: val loss rose"],
    "over-fitting-table": ["over-fitting: val loss rose from 0.551 (epoch 14)"],
    "over-fitting-constant-table": ["over-fitting: val loss rose"],
    "over-fitting-cosine-table": ["over-fitting: val loss rose"],
    "ties": [],  # the accuracy stands still, and the loss rises by little
    "noise": [],  # 13 samples
    "under-trained": ["the last epoch was the best, and val loss was still falling"],
    "diverging": ["the model does not learn"],
    "small-validation": [],
    "warm-up-long": ["over-fitting: accuracy is 0.944 on train and 0.45 on val"],
    "cosine-restarts": [],
}


def hints_of(run: dict[str, Any]) -> list[tuple[int, str]]:
    """(epoch, hint) of a recorded run; the end counts as its last epoch."""
    start, hints = run["started"], Hints()
    samples = {"run": "runs/a", "model": "m", "params": 1, "trainable_params": 1, "data": "d"}
    shape = {"input_shape": (1,), "lr": max(run["lr"]), "device": "cpu", "amp": "none"}
    hints(RunStarted(**samples, **shape, **start, settings=run["settings"]))
    found: list[tuple[int, str]] = []
    steps = start["steps_per_epoch"]
    for i, loss in enumerate(run["loss"]):
        event = EpochDone(
            epoch=i + 1, epochs=start["epochs"], step=(i + 1) * steps, loss=loss,
            accuracy=run["accuracy"][i], lr=run["lr"][i],
            val={name: math.nan if v[i] is None else v[i] for name, v in run["val"].items()},
            monitor=start["monitor"], improved=bool(run["improved"][i]), samples_per_s=1.0,
            epoch_s=1.0, elapsed_s=1.0,
        )  # fmt: skip
        found += [(i + 1, text) for text in hints(event)]
    if run["finished"]:
        last = len(run["loss"])
        end = RunFinished("runs/a", last * steps, last, start["monitor"], 0.5, run["best_epoch"], 1.0)
        found += [(last, text) for text in hints(end)]
    return found


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_run_gets_the_hints_that_are_right(name: str) -> None:
    found = [text for _, text in hints_of(RUNS[name])]
    assert len(found) == len(RIGHT[name]), found
    for text, start in zip(found, RIGHT[name], strict=True):
        assert text.startswith(start)


@pytest.mark.parametrize("name", RUNS)
def test_no_recorded_run_is_advised_a_patience_that_ends_it_at_a_rising_rate(name: str) -> None:
    run = RUNS[name]
    for epoch, text in hints_of(run):
        if "--patience" in text:
            _, _, after = text.partition("--patience ")
            # It would have ended so many epochs after the last better one, with the rate past its peak.
            best = max(i for i, improved in enumerate(run["improved"][:epoch]) if improved)
            ended = best + int(after.split()[0])
            assert run["lr"][ended] <= run["lr"][best]
            assert max(run["lr"][ended:]) == run["lr"][ended]
