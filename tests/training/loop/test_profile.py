"""--profile: a trace of some steps in the run's folder, its dearest operators, and the same run."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dlcli.config import TrainConfig
from dlcli.events import Event, OperatorTime, Profiled, Warned, ignore
from dlcli.formats.checkpoint import read_tensors
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop.profiling import WARM_UP_STEPS
from dlcli.training.loop.state import load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run
from dlcli.ui.progress.plain import PlainLines

# 1,439 training digits in batches of 300: 5 steps an epoch.
BASE = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [4, 8], "hidden": 16, "dropout": 0.3}},
    "augment": {"mixup": 0.4},
    "fit": {"epochs": 2, "batch_size": 300, "log_every": 0, "device": "cpu"},
}


def train(root: Path, emit: Callable[[Event], None] = ignore, **fit: Any) -> training.TrainResult:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, {"fit": fit})))
    prepared = prepare_run(plan)
    return training.train(prepared, training.new_run(prepared, root, "run"), emit, state=None)


def profiled(events: list[Event]) -> list[Profiled]:
    return [event for event in events if isinstance(event, Profiled)]


def updates(path: str) -> int:
    """The optimizer steps in a trace."""
    with gzip.open(path) as file:
        entries = json.load(file)["traceEvents"]
    return sum("Optimizer.step" in str(e.get("name")) and e.get("ph") == "X" for e in entries)


@pytest.mark.parametrize(
    ("steps", "first", "profiled_steps"),
    [
        (2, WARM_UP_STEPS + 1, 2),  # the rest of the first epoch has room
        (4, 6, 4),  # it has not: the second has
        (9, 6, 5),  # no epoch has: as many as there are
    ],
)
def test_the_trace_has_the_steps_of_one_epoch(
    tmp_path: Path, steps: int, first: int, profiled_steps: int
) -> None:
    events: list[Event] = []
    result = train(tmp_path, events.append, profile=steps)
    (event,) = profiled(events)
    assert Path(event.path) == result.run.path / f"profile-step-{first}.json.gz"
    assert (event.first_step, event.steps, event.by) == (first, profiled_steps, "CPU")
    assert updates(event.path) == profiled_steps
    shares = [operator.share for operator in event.operators]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1
    assert all(operator.calls and operator.device_ms is None for operator in event.operators)
    assert "aten::_foreach" in str(event.operators) or "conv" in str(event.operators)


def test_a_profiled_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    plain, traced = train(tmp_path / "a"), train(tmp_path / "b", profile=2)
    (first, _), (second, _) = (read_tensors(result.run.best) for result in (plain, traced))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert plain.fit.progress.best_loss == traced.fit.progress.best_loss


def test_a_resumed_run_is_profiled_after_its_own_warm_up(tmp_path: Path) -> None:
    run = train(tmp_path, epochs=1).run
    state, _ = load_newest(run.state)
    longer = read_run(run).with_changes({"fit": {"epochs": 2, "profile": 1}})
    events: list[Event] = []
    prepared = prepare_run(read_plan(longer, fresh=False))
    training.train(prepared, run, events.append, state=state)
    (event,) = profiled(events)
    assert (event.first_step, event.steps) == (5 + WARM_UP_STEPS + 1, 1)
    assert updates(event.path) == 1


def test_a_run_that_is_too_short_says_so(tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(tmp_path, events.append, profile=2, max_steps=WARM_UP_STEPS)
    assert not profiled(events)
    assert any(isinstance(e, Warned) and e.message.startswith("--profile") for e in events)
    assert not list(result.run.path.glob("profile*"))


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize(("by", "device_ms"), [("CPU", None), ("CUDA", 1234.5)])
def test_the_table_of_operators_fits_the_screen(width: int, by: str, device_ms: float | None) -> None:
    name = "autograd::engine::evaluate_function: ConvolutionBackward0 of a very long name indeed"
    operator = OperatorTime(name, 123_456, 98_765.4, device_ms, 0.987)
    event = Profiled("runs/r/profile-step-4.json.gz", 4, 10, by, (operator,) * 10)
    screen = io.StringIO()
    PlainLines(Console(file=screen, width=width))(event)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 12  # a title, the heads, ten operators
    assert "steps 4 to 13" in lines[0]
    assert "runs/r/profile-step-4.json.gz" in lines[0]
    assert all(len(line) <= width for line in lines[1:])
    assert ("CUDA" in lines[1]) is (device_ms is not None)
    assert "98.7%" in lines[2]
