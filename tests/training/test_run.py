"""Runs: they learn, they repeat, and one that was stopped ends where the other ends."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, Interrupted, UsageError
from dlcli.events import EpochDone, Event, StepDone, Tee, ignore
from dlcli.formats.checkpoint import read_tensors
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop.state import load_newest
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run

# Dropout draws from torch's generator and the last batch is ragged: both must survive a resume.
BASE = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [4, 8], "hidden": 16, "dropout": 0.3}},
    "optim": {"lr": 0.02},
    "fit": {"epochs": 2, "batch_size": 100, "log_every": 0, "device": "cpu"},
}


def plan(**changes: Any) -> Plan:
    return make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))


def train(root: Path, emit: Callable[[Event], None] = ignore, **changes: Any) -> training.TrainResult:
    made = plan(**changes)
    prepared = prepare_run(made)
    return training.train(prepared, training.new_run(prepared, root, "run"), emit, state=None)


def resume(run: RunFolder, emit: Callable[[Event], None] = ignore) -> training.TrainResult:
    state, _ = load_newest(run.state)
    made = read_plan(read_run(run), fresh=state is None)
    return training.train(prepare_run(made), run, emit, state=state)


def final(run: RunFolder) -> dict[str, torch.Tensor]:
    state, warnings = load_newest(run.state)
    assert state is not None
    assert not warnings
    return state.tensors


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Killed(BaseException):
    """What a SIGKILL is to the code: nothing after it runs."""


def kill_after(steps: int) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == steps:
            raise Killed

    return emit


def stop_after(steps: int) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    return emit


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> training.TrainResult:
    return train(tmp_path_factory.mktemp("whole"))


def test_a_run_learns_and_repeats(whole: training.TrainResult, tmp_path: Path) -> None:
    assert whole.validation is not None
    assert whole.validation.metrics["accuracy"] > 0.5
    again = train(tmp_path)
    assert same(final(whole.run), final(again.run))
    assert not same(final(whole.run), final(train(tmp_path, fit={"seed": 1}).run))


def test_the_loss_starts_at_the_log_of_the_classes(tmp_path: Path) -> None:
    first: list[StepDone] = []
    train(
        tmp_path,
        lambda e: first.append(e) if isinstance(e, StepDone) else None,
        fit={"epochs": 1},
        optim={"lr": 1e-6},
    )
    assert first[0].loss == pytest.approx(math.log(10), abs=0.2)


@pytest.mark.parametrize("steps", [1, 14, 15, 20])
def test_killed_and_resumed_is_never_interrupted(
    whole: training.TrainResult, tmp_path: Path, steps: int
) -> None:
    # 1438 training digits in batches of 100 are 15 steps an epoch; states every 4 steps.
    every = {"fit": {"checkpoint_every": "4,1ep"}}
    made = plan(**every)
    run = training.new_run(prepare_run(made), tmp_path, "run")
    with pytest.raises(Killed):
        training.train(prepare_run(made), run, kill_after(steps), state=None)
    assert run.read_record()["status"] == "failed"
    result = resume(run)
    assert result.fit.progress.step == 30
    assert same(final(run), final(whole.run))
    best, other = read_tensors(run.best)[0], read_tensors(whole.run.best)[0]
    assert same(best, other)


def test_ctrl_c_saves_where_it_was(whole: training.TrainResult, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    result = train(tmp_path, stop_after(7))
    assert result.fit.signum == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    assert result.run.read_record()["status"] == "interrupted"
    state, _ = load_newest(result.run.state)
    assert state is not None
    assert state.progress.step in (7, 8)  # the step under way is finished
    resume(result.run)
    assert same(final(result.run), final(whole.run))


def test_a_stop_during_validation_repeats_only_the_validation(
    whole: training.TrainResult, tmp_path: Path
) -> None:
    def emit(event: Event) -> None:
        if type(event).__name__ == "EvalProgress":
            os.kill(os.getpid(), signal.SIGTERM)

    made = plan()
    run = training.new_run(prepare_run(made), tmp_path, "run")
    result = training.train(prepare_run(made), run, emit, state=None)
    # One batch of validation: the signal of its progress is honoured at the end of the epoch.
    assert result.fit.signum == signal.SIGTERM
    epochs: list[EpochDone] = []
    resume(run, lambda e: epochs.append(e) if isinstance(e, EpochDone) else None)
    assert same(final(run), final(whole.run))
    assert epochs[-1].epoch == 2


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path) -> None:
    run = train(tmp_path, fit={"checkpoint_every": "10"}).run
    newest = sorted(run.state.iterdir(), key=lambda p: int(p.name.split("-")[1]))[-1]
    tensors = newest / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    state, warnings = load_newest(run.state)
    assert state is not None
    assert state.path != newest
    assert len(warnings) == 1
    assert "does not match its SHA-256" in warnings[0]
    assert same(final_after_fallback(run), state.tensors)


def final_after_fallback(run: RunFolder) -> dict[str, torch.Tensor]:
    state, _ = load_newest(run.state)
    assert state is not None
    return state.tensors


def test_no_state_is_whole(tmp_path: Path) -> None:
    run = train(tmp_path, fit={"epochs": 1}).run
    for folder in run.state.iterdir():
        (folder / "state.json").write_text("{}")
    with pytest.raises(DlcliError, match="no training state in"):
        load_newest(run.state)


def test_a_full_disk_while_saving_leaves_the_older_state_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dlcli.training.loop.state as module

    real, calls = module.write_tensors, []

    def full_at_the_second(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        real(*args, **kwargs)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_tensors", full_at_the_second)
    made = plan()
    run = training.new_run(prepare_run(made), tmp_path, "run")
    with pytest.raises(DlcliError, match="No space left"):
        training.train(prepare_run(made), run, ignore, state=None)
    assert [p.name for p in run.state.iterdir()] == ["step-15"]
    state, warnings = load_newest(run.state)
    assert state is not None
    assert (state.progress.step, warnings) == (15, [])


def test_early_stopping_counts_epochs_without_a_better_metric(tmp_path: Path) -> None:
    result = train(tmp_path, fit={"epochs": 9, "patience": 2, "min_delta": 0.9})
    assert result.fit.progress.stopped_early
    assert result.fit.progress.epoch < 9
    assert result.fit.progress.epochs_without_improvement == 2


def test_freezing_the_backbone_changes_the_head_alone(tmp_path: Path) -> None:
    made = plan(model={"freeze": "backbone"})
    before, *_ = made.build()
    old = {k: v.clone() for k, v in before.state_dict().items()}
    run = train(tmp_path, model={"freeze": "backbone"}).run
    new = read_tensors(run.best)[0]
    changed = {k for k in old if not torch.equal(old[k], new[k])}
    assert changed
    assert all(k.startswith("head.") for k in changed)


def test_divergence_is_named(tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match="training has diverged") as caught:
        train(tmp_path, optim={"optimizer": "sgd", "lr": 1e30, "scheduler": "constant"})
    assert "--lr" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "cn"}}, "unknown model 'cn'"),
        ({"model": {"args": {"width": 3}}}, "has no argument 'width'"),
        ({"model": {"head": "mlp"}}, "--head mlp is for models of torchvision, timm and bert; cnn"),
        (
            {"model": {"name": "resnet18", "pretrained": False, "args": {"hidden": 9}}},
            "model.args.hidden is for --head mlp",
        ),
        ({"model": {"pretrained": True}}, "--pretrained: cnn has no published weights"),
        ({"fit": {"monitor": "acc"}}, "--monitor 'acc'"),
        ({"fit": {"checkpoint_every": "5sec"}}, "--checkpoint-every"),
        ({"fit": {"device": "gpu"}}, "--device 'gpu'"),
        ({"fit": {"device": "cuda:99"}}, "--device cuda:99"),
        ({"fit": {"amp": "fp16"}}, "--amp fp16"),
    ],
)
def test_bad_settings_are_refused_before_a_run_is_made(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, DlcliError)) as caught:
        train(tmp_path, **changes)
    assert message in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_from_train_to_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train_it = ["train", "--model", "mlp", "--data", "digits", "--epochs", "2", "--device", "cpu"]
    assert main([*train_it, "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    run = RunFolder(Path(out["run"]))
    assert out["command"] == "train"
    assert Path(out["artifact"]) == run.best
    for plot in out["plots"]:
        assert Path(plot).read_bytes().startswith(b"\x89PNG")
    for part in (run.config, run.record, run.splits, run.metrics, run.best):
        assert part.is_file()

    assert main(["train", "--config", str(run.config), "--json"]) == 0
    repeat = json.loads(capsys.readouterr().out)
    assert repeat["run"] != out["run"]
    assert repeat["metrics"] == out["metrics"]

    assert main(["train", "--resume", run.name]) == 0
    assert "is finished" in capsys.readouterr().out

    assert main(["train", "--resume", run.name, "--epochs", "3", "--json"]) == 0
    more = json.loads(capsys.readouterr().out)
    assert (more["epochs"], more["run"]) == (3, out["run"])
    epochs = [e for e in map(json.loads, run.metrics.read_text().splitlines())
              if e["event"] == "EpochDone"]  # fmt: skip
    assert [e["epoch"] for e in epochs] == [1, 2, 3]

    assert main(["eval", "--json", "--min", "accuracy=0.5"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["split"] == "test"
    assert main(["eval", "--json", "--split", "val", out["run"]]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["metrics"] == pytest.approx(more["metrics"]["val"])
    assert main(["eval", "--json", "--min", "accuracy=1.1"]) == 3
    missed = capsys.readouterr()
    assert "below the bound" in missed.err
    assert json.loads(missed.out)["missed"]


def test_a_ranking_metric_chooses_the_epoch_bounds_eval_and_judges_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["--epochs", "3", "--device", "cpu", "--monitor", "roc_auc"]
    assert main(["train", "--model", "mlp", "--data", "breast-cancer", *fit]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(r"baseline majority 0.5000; the model is better by 0.4\d+", out)
    log = next(tmp_path.glob("runs/*/metrics.jsonl")).read_text()
    epochs = [e for e in map(json.loads, log.splitlines()) if e["event"] == "EpochDone"]
    assert all(epoch["monitor"] == "roc_auc" for epoch in epochs)
    assert main(["eval", "--json", "--min", "roc_auc=0.8", "--min", "average_precision=0.8"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["metric"] for row in result["baselines"]] == ["roc_auc"]
    assert main(["eval", "--min", "log_loss=1e-9"]) == 3
    assert "above the bound" in capsys.readouterr().err


def test_a_metric_that_val_does_not_define_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for split, classes in (("train", "ab"), ("val", "a")):
        rows = "".join(f"{i}.5,{classes[i % len(classes)]}\n" for i in range(20))
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.csv").write_text(f"x,label\n{rows}")
    train_it = ["train", "--model", "mlp", "--data", "data", "--target", "label", "--epochs", "1"]
    assert main([*train_it, "--device", "cpu", "--monitor", "roc_auc"]) == 1
    assert "in the val split all samples are of one class" in capsys.readouterr().err
    assert main([*train_it, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["eval", "--split", "val", "--min", "roc_auc=0.5"]) == 3
    assert "roc_auc is undefined: all samples are of one class" in capsys.readouterr().err


def test_a_metric_of_more_outputs_than_are_held_is_refused_before_a_run_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlcli.evaluation.metrics.registered.MAX_NUMBERS", 100)
    with pytest.raises(UsageError, match=r"--monitor roc_auc: .* samples of 10 outputs are more than"):
        train(tmp_path, fit={"monitor": "roc_auc"})
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_went_on_records_each_event_once(tmp_path: Path) -> None:
    from dlcli.runs.folder import read_events
    from dlcli.ui.progress.metrics_log import MetricsLog, truncate_events

    made = plan(fit={"checkpoint_every": "4,1ep"})
    run = training.new_run(prepare_run(made), tmp_path, "run")
    with MetricsLog(run.metrics) as log:
        emit = Tee((log, kill_after(20)))
        with pytest.raises(Killed):
            training.train(prepare_run(made), run, emit, state=None)
    state, _ = load_newest(run.state)
    assert state is not None
    truncate_events(run.metrics, state.progress.step)
    with MetricsLog(run.metrics) as log:
        training.train(prepare_run(read_plan(read_run(run), fresh=False)), run, log, state=state)
    events = read_events(run.metrics)
    steps = [e["step"] for e in events if e["event"] == "StepDone"]
    assert steps == list(range(1, 31))
    best = [e["step"] for e in events if e["event"] == "CheckpointSaved" and e["what"] == "best"]
    improved = [e["step"] for e in events if e["event"] == "EpochDone" and e["improved"]]
    assert best == improved


def test_ctrl_c_around_the_loop_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "make_readers", interrupted)
    with pytest.raises(Interrupted, match="run run has not ended") as error:
        train(tmp_path)
    assert error.value.exit_code == 130
    assert error.value.hint is not None
    assert "dlcli train --resume run" in error.value.hint
    assert RunFolder(tmp_path / "run").read_record()["status"] == "interrupted"
