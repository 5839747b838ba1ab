"""Where a run ends, which weights it keeps, and what is frozen meanwhile."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.config.durations import parse_time
from dlcli.errors import UsageError
from dlcli.events import CheckpointSaved, EpochDone, Event, Noted, RunStarted, StepDone, ignore
from dlcli.formats.checkpoint import card_of, read_tensors
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop import epoch_end as epochs
from dlcli.training.loop.state import load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run

# 1,439 training digits in batches of 300: 5 steps an epoch.
BASE = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [4, 8], "hidden": 16}},
    "optim": {"lr": 0.02},
    "fit": {"epochs": 3, "batch_size": 300, "log_every": 0, "device": "cpu"},
}


def train(root: Path, emit: Callable[[Event], None] = ignore, **changes: Any) -> training.TrainResult:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))
    prepared = prepare_run(plan)
    return training.train(prepared, training.new_run(prepared, root, "run"), emit, state=None)


def resume(run: RunFolder, **fit: Any) -> training.TrainResult:
    state, _ = load_newest(run.state)
    return training.train(
        prepare_run(read_plan(read_run(run).with_changes({"fit": fit}), fresh=False)),
        run,
        ignore,
        state=state,
    )


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    state, _ = load_newest(run.state)
    assert state is not None
    return {k: v for k, v in state.tensors.items() if k.startswith(("model/", "optim/"))}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (5, 1), (7, 2), (99, 3)])
def test_max_steps_ends_the_run_there_with_a_model(tmp_path: Path, steps: int, epochs: int) -> None:
    seen: list[Event] = []
    result = train(tmp_path, seen.append, fit={"max_steps": steps})
    progress = result.fit.progress
    assert progress.step == min(steps, 15)
    assert progress.epochs_begun == epochs
    assert progress.reason == ("steps" if steps < 15 else "")
    assert card_of(result.run.best).metrics["val"]
    rates = [event.lr for event in seen if isinstance(event, StepDone)]
    assert len(rates) == progress.step
    if steps == 7:  # the schedule spans the steps that are really taken
        assert rates[-1] < 1e-3 * max(rates)


def test_more_steps_go_on_with_the_next_batch(tmp_path: Path) -> None:
    # At a constant rate the schedule does not know how long the run will be.
    flat = {"optim": {"scheduler": "constant"}}
    whole = train(tmp_path / "whole", **flat)
    short = train(tmp_path / "short", **merge(flat, {"fit": {"max_steps": 7}}))
    resume(short.run, max_steps=15)
    assert same(weights(short.run), weights(whole.run))


def test_max_time_ends_the_run_after_a_whole_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("dlcli.training.loop.timing.time.perf_counter", lambda: float(next(ticks)))
    result = train(tmp_path, fit={"max_time": "30s", "checkpoint_every": "99ep"})
    assert 0 < result.fit.progress.step < 15
    assert result.fit.progress.reason == "time"
    assert result.run.best.is_file()
    monkeypatch.undo()
    assert resume(result.run, max_time="9h").fit.progress.step == 15


def test_time_that_is_up_between_two_epochs_ends_the_run_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, passed = time.perf_counter, [0.0]

    def emit(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            passed[0] = 900.0  # its validation took that long

    monkeypatch.setattr("dlcli.training.loop.timing.time.perf_counter", lambda: true() + passed[0])
    result = train(tmp_path, emit, fit={"max_time": "500s"})
    progress = result.fit.progress
    assert (progress.epoch, progress.batch, progress.reason) == (2, 0, "time")
    # A run that goes on without more time has nothing to do.
    again = resume(result.run)
    assert (again.fit.progress.step, again.fit.progress.reason) == (10, "time")
    assert resume(result.run, max_time="9h").fit.progress.step == 15


def test_states_are_saved_at_the_steps_that_were_requested(tmp_path: Path) -> None:
    saved: list[int] = []

    def emit(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and event.what == "state":
            saved.append(event.step)

    train(tmp_path, emit, fit={"checkpoint_every": "5"})
    assert saved == [5, 10, 15]


def test_the_mean_of_the_last_epochs_is_of_the_run_that_is_really_made(tmp_path: Path) -> None:
    seen: list[Event] = []
    train(tmp_path, seen.append, fit={"epochs": 30, "max_steps": 15, "swa": 0.5})
    assert any("the mean of the weights of 2 epochs" in e.message for e in seen if isinstance(e, Noted))


def test_a_run_that_gets_more_epochs_takes_its_mean_of_the_new_last_ones(tmp_path: Path) -> None:
    run = train(tmp_path, fit={"swa": 0.5}).run
    resume(run, epochs=9)
    state, _ = load_newest(run.state)
    assert state is not None
    assert state.values.averages["swa"] == 5  # 5 to 9, without 2 and 3


def test_a_run_that_is_stopped_while_its_mean_is_judged_judges_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", fit={"swa": 0.3})
    true = epochs.refresh_batch_norms

    def interrupted(*args: Any) -> None:
        true(*args)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(epochs, "refresh_batch_norms", interrupted)
    short = train(tmp_path / "short", fit={"swa": 0.3})
    assert short.fit.signum == signal.SIGINT
    monkeypatch.undo()
    events: list[Event] = []
    state, _ = load_newest(short.run.state)
    prepared = prepare_run(read_plan(read_run(short.run), fresh=False))
    training.train(prepared, short.run, events.append, state=state)
    assert any(
        "the mean of the weights" in event.message for event in events if isinstance(event, Noted)
    )
    assert same(read_tensors(short.run.best)[0], read_tensors(whole.run.best)[0])


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("2h", 7200), ("1h30min", 5400), ("0.5h", 1800)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "-1h", "2 days", "0s", "1s1h"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError, match="--max-time"):
        parse_time(text)


def test_overfitting_a_few_batches_learns_them_by_heart(tmp_path: Path) -> None:
    seen: list[Event] = []
    result = train(
        tmp_path,
        seen.append,
        fit={"overfit_batches": 2, "batch_size": 16, "epochs": 40},
        augment={"level": "strong"},
    )
    assert result.validation is not None
    assert result.validation.samples == 32
    assert result.validation.metrics["accuracy"] > 0.9
    started = next(event for event in seen if isinstance(event, RunStarted))
    assert started.steps_per_epoch == 2
    assert any("same 32 samples" in note for note in started.notes)


def test_the_best_epochs_are_kept_and_no_others(tmp_path: Path) -> None:
    seen: list[Event] = []
    run = train(tmp_path, seen.append, fit={"epochs": 5, "keep_best": 2}).run
    done = [event for event in seen if isinstance(event, EpochDone)]
    ranked = sorted(done, key=lambda e: (-e.val["accuracy"], e.val["loss"]))
    saved = sorted(path.name for path in (run.path / "epochs").iterdir())
    assert saved == sorted(f"epoch-{event.epoch}.safetensors" for event in ranked[:2])
    best = read_tensors(run.path / "epochs" / f"epoch-{ranked[0].epoch}.safetensors")[0]
    assert same(best, read_tensors(run.best)[0])


def test_a_moving_average_is_what_is_evaluated_and_kept(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    averaged = train(tmp_path / "ema", fit={"ema": 0.9})
    assert same(weights(plain.run), weights(averaged.run))  # training does not notice
    best, other = read_tensors(plain.run.best)[0], read_tensors(averaged.run.best)[0]
    assert not same(best, other)


def test_the_mean_of_the_last_epochs_is_compared_and_reported(tmp_path: Path) -> None:
    seen: list[Event] = []
    result = train(tmp_path, seen.append, fit={"swa": 0.5}, optim={"scheduler": "constant"})
    notes = [event.message for event in seen if isinstance(event, Noted) and "mean of" in event.message]
    assert len(notes) == 1
    assert "2 epochs" in notes[0]  # the first of three ends before half of the run is over
    accuracy = card_of(result.run.best).metrics["val"]["accuracy"]
    assert accuracy == max(
        accuracy, *(event.val["accuracy"] for event in seen if isinstance(event, EpochDone))
    )


def test_frozen_layers_do_not_move_before_they_are_unfrozen(tmp_path: Path) -> None:
    models: list[dict[str, torch.Tensor]] = []

    def watch(event: Event) -> None:
        if isinstance(event, EpochDone):
            models.append(
                read_tensors(tmp_path / "run" / "epochs" / f"epoch-{event.epoch}.safetensors")[0]
            )

    changes = {"model": {"unfreeze": "features.0@50%"}, "fit": {"epochs": 4, "keep_best": 9}}
    train(tmp_path, watch, **changes)
    name = "features.0.weight"
    assert torch.equal(models[0][name], models[1][name])
    assert not torch.equal(models[1][name], models[2][name])
    assert not torch.equal(models[0]["head.1.weight"], models[1]["head.1.weight"])


def test_settings_without_a_meaning_are_refused(tmp_path: Path) -> None:
    for changes, message in (
        ({"loss": {"temperature": 4.0}}, "--temperature is for distillation"),
        ({"optim": {"milestones": [0.1]}}, "milestones"),
        ({"loss": {"margin": 0.5}}, "margin"),
        ({"fit": {"histograms": True}}, "needs TensorBoard"),
        ({"model": {"embedding_size": 7}}, "--task embedding"),
        ({"fit": {"compile": "default", "grad_checkpointing": "auto"}}, "do not work together"),
    ):
        with pytest.raises(UsageError, match=message):
            train(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_the_command_line_says_why_a_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["train", "-m", "mlp", "-d", "digits", "-b", "500", "--device", "cpu", "--max-steps", "2"]
    assert main([*argv, "--json", "--name", "a"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["reason"], result["steps"], result["epochs"]) == ("steps", 2, 1)
    assert math.isfinite(result["metrics"]["val"]["loss"])
    assert main(["train", "--resume", "a"]) == 0
    assert "--max-steps N" in capsys.readouterr().out
    assert main(["train", "--resume", "a", "--max-steps", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 4
