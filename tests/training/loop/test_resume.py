"""Runs that go on: what may change, what is remembered, and what damage means."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.events import Event, StepDone, Warned, ignore
from dlcli.files import sha256_file
from dlcli.formats.checkpoint import read_tensors, write_tensors
from dlcli.runs.folder import RunFolder, read_events
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop.state import load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run

BASE = {
    "data": {"data": "digits"},
    "model": {"name": "mlp", "args": {"widths": [8]}},
    "fit": {"epochs": 1, "batch_size": 200, "device": "cpu", "log_every": 0},
}
TINY = ["train", "-m", "mlp", "-d", "digits", "--device", "cpu", "-b", "500", "-q", "--name", "a"]


def train(root: Path, emit: Callable[[Event], None] = ignore, **changes: Any) -> training.TrainResult:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))
    prepared = prepare_run(plan)
    return training.train(prepared, training.new_run(prepared, root, "a"), emit, state=None)


def resume(run: RunFolder, emit: Callable[[Event], None] = ignore) -> training.TrainResult:
    state, _ = load_newest(run.state)
    return training.train(
        prepare_run(read_plan(read_run(run), fresh=state is None)), run, emit, state=state
    )


def stop_after(steps: int) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    return emit


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["-e", "2", "--checkpoint-every", "5sec"], 2),
        (["-e", "2", "--device", "cuda:99"], 1),
        (["--set", "fit=3"], 2),
        (["--epochs", "0"], 2),
    ],
)
def test_a_refused_resume_leaves_the_run_as_it_was(here: Path, options: list[str], code: int) -> None:
    assert main([*TINY, "-e", "1"]) == 0
    before = (here / "runs/a/config.yaml").read_bytes()
    assert main(["train", "--resume", "a", *options]) == code
    assert (here / "runs/a/config.yaml").read_bytes() == before
    assert main(["train", "--resume", "a", "-e", "2", "-q"]) == 0


def test_what_changes_learning_is_refused_with_the_difference_unless_forced(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, "-e", "1"]) == 0
    assert main(["train", "--resume", "a", "-e", "2", "--lr", "0.5", "--batch-size", "100"]) == 2
    err = capsys.readouterr().err
    assert "fit.batch_size: 500 -> 100" in err
    assert "optim.lr: 0.001 -> 0.5" in err
    assert "fit.epochs" not in err
    assert main(["train", "--resume", "a", "--batch-size", "100"]) == 2  # nothing is left to do
    assert "fit.batch_size: 500 -> 100" in capsys.readouterr().err
    assert main(["train", "--resume", "a", "--set", "fit.log_every=2"]) == 2
    err = capsys.readouterr().err
    assert "run a is finished, so these settings would change nothing: fit.log_every: 0.5 -> 2.0" in err
    assert "dlcli train --resume a --epochs N" in err
    assert main(["train", "--resume", "a"]) == 0
    assert "beyond epoch 1: dlcli train --resume a --epochs N" in capsys.readouterr().out
    assert main(["train", "--resume", "a", "-e", "2", "--lr", "0.5", "--force"]) == 0
    assert "schedule is recomputed" in capsys.readouterr().err
    # What is as it was is no change.
    assert main(["train", "--resume", "a", "-e", "3", "--lr", "0.5", "-q"]) == 0


def test_a_run_that_stopped_early_goes_on_with_more_patience(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, "-e", "9", "--patience", "1", "--set", "fit.min_delta=0.9", "--json"]) == 0
    epochs = json.loads(capsys.readouterr().out)["epochs"]
    assert main(["train", "--resume", "a", "--epochs", "20"]) == 2
    assert "--resume a --patience N" in capsys.readouterr().err
    assert main(["train", "--resume", "a"]) == 0
    assert "stopped early" in capsys.readouterr().out
    assert main(["train", "--resume", "a", "--patience", "3", "--json"]) == 0
    more = json.loads(capsys.readouterr().out)
    assert more["epochs"] > epochs


def test_the_hint_of_a_finished_run_says_where_it_is(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, "-e", "1", "--runs-dir", "other"]) == 0
    assert f"dlcli eval other{os.sep}a " in " ".join(capsys.readouterr().out.split())
    assert main(["train", "--resume", "a", "--runs-dir", "other"]) == 0
    assert "--resume a --runs-dir other --epochs N" in " ".join(capsys.readouterr().out.split())


def test_the_next_commands_name_a_run_that_is_not_the_newest(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, "-e", "1"]) == 0
    assert "dlcli eval dlcli predict FILE" in " ".join(capsys.readouterr().out.split())
    assert main([*TINY, "-e", "1"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "a", "-e", "2", "-q"]) == 0
    assert f"dlcli eval runs{os.sep}a " in " ".join(capsys.readouterr().out.split())


def test_warnings_outlive_a_resume(tmp_path: Path) -> None:
    freeze = {"model": {"freeze": "backbone"}}
    run = train(tmp_path, stop_after(3), **freeze).run
    record = run.read_record()
    assert any("frozen at random" in text for text in record["warnings"])
    run.write_record({**record, "warnings": ["TRAINING FROM SCRATCH", *record["warnings"]]})
    resume(run)
    assert run.read_record()["warnings"] == ["TRAINING FROM SCRATCH", *record["warnings"]]


def test_a_frozen_backbone_from_a_file_is_not_called_random_on_resume(tmp_path: Path) -> None:
    first = train(tmp_path).run
    run = train(tmp_path, stop_after(3), model={"freeze": "backbone", "weights": str(first.best)}).run
    messages: list[str] = []
    resume(run, lambda e: messages.append(e.message) if isinstance(e, Warned) else None)
    assert messages == []


def test_bad_samples_found_before_a_stop_stay_listed(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    root = photo_folder(splits=("train", "val"))
    bad = root / "train" / "red" / "0.jpg"
    bad.write_bytes(b"")
    settings = {
        "data": {"data": str(root)},
        "model": {"img_size": 8},
        "fit": {"batch_size": 4, "checkpoint_every": "1"},
    }
    run = train(tmp_path / "runs", stop_after(5), **settings).run
    run.write_record({**run.read_record(), "bad_samples": {"train/red/0.jpg": "found before"}})
    resume(run)
    assert "train/red/0.jpg" in run.read_record()["bad_samples"]


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"started_at": "1", "plan": {"task": 3}}'])
def test_a_damaged_record_is_one_run_s_trouble(here: Path, text: str) -> None:
    assert main([*TINY, "-e", "1"]) == 0
    shutil.copytree("runs/a", "runs/b")
    Path("runs/b/run.json").write_text(text)
    assert main(["eval", "-q"]) == 0
    assert main(["train", "--resume", "b", "-e", "2"]) == 1


@pytest.mark.parametrize("text", ["{}", "[]", '{"sha256": 3}', "{"])
def test_a_damaged_manifest_is_passed_over(tmp_path: Path, text: str) -> None:
    run = train(tmp_path, fit={"checkpoint_every": "1"}).run
    newest = max(run.state.iterdir(), key=lambda p: float(p.name[5:]))
    (newest / "manifest.json").write_text(text)
    state, warnings = load_newest(run.state)
    assert state is not None
    assert state.path != newest
    assert len(warnings) == 1


def _rewrite(state: Path, keys: str, value: Any) -> None:
    """Set an entry of state.json, "progress.step", and give the manifest the digest that fits."""
    path = state / "state.json"
    values = entry = {"": json.loads(path.read_text())}
    *inner, last = ["", *keys.split(".")] if keys else [""]
    for key in inner:
        entry = entry[key]
    entry[last] = value
    path.write_text(json.dumps(values[""]))
    manifest = {name: sha256_file(state / name) for name in ("tensors.safetensors", "state.json")}
    (state / "manifest.json").write_text(json.dumps({"sha256": manifest}))


def test_values_of_a_state_that_cannot_be_are_damage(tmp_path: Path) -> None:
    run = train(tmp_path).run
    (state,) = run.state.iterdir()
    whole = (state / "state.json").read_text()
    odd: list[tuple[str, Any]] = [
        *(("", value) for value in ([], {}, 3)),
        *(("schema", value) for value in ([], "2", None, 0, 10**400)),
        *((f"progress.{name}", "x") for name in ("step", "best", "elapsed_s", "phase_s", "kept")),
        *(
            ("progress", "x"),
            ("progress.epoch", -5),
            ("progress.batch", 10**30),
            ("progress.plateau", [1]),
            ("progress.kept", [1]),
        ),
        *(("progress.phase_s", {"step": "x"}), ("optim", [1]), ("optim", {"a": {}}), ("scaler", [1])),
        *(("optimizer", "x"), ("optimizer.parameters", 3), ("optimizer.parameters", [["a"]])),
        *(("averages", []), ("rng", None), ("rng.python", [3, [1], None]), ("rng.numpy.pos", 10**6)),
        *(("rng.numpy.key", [-1] * 624), ("rng_of_others", [3])),
    ]
    for keys, value in odd:
        (state / "state.json").write_text(whole)
        _rewrite(state, keys, value)
        with pytest.raises(DlcliError, match=r"state\.json is damaged|has schema"):
            load_newest(run.state)
    (state / "state.json").write_text(whole)
    _rewrite(state, "schema", 2)
    assert load_newest(run.state)[0] is not None


def test_random_generators_that_cannot_be_are_damage(tmp_path: Path) -> None:
    run = train(tmp_path).run
    (state,) = run.state.iterdir()
    path = state / "tensors.safetensors"
    tensors, metadata = read_tensors(path)
    whole = json.loads((state / "state.json").read_text())["rng"]["python"]
    for broken in (torch.zeros(3), torch.zeros(7, dtype=torch.uint8)):
        write_tensors(path, {**tensors, "rng/torch": broken}, metadata)
        _rewrite(state, "schema", 2)
        with pytest.raises(DlcliError, match="random generators"):
            resume(run)
    write_tensors(path, tensors, metadata)
    _rewrite(state, "rng.python", [99, *whole[1:]])
    with pytest.raises(DlcliError, match="random generators"):
        resume(run)


@pytest.mark.parametrize("odd", [torch.zeros(2), torch.zeros(1, 1, 1), torch.zeros(3, 9), "integers"])
def test_moments_that_fit_no_parameter_are_damage(tmp_path: Path, odd: torch.Tensor | str) -> None:
    run = train(tmp_path, fit={"epochs": 1}).run
    (state,) = run.state.iterdir()
    path = state / "tensors.safetensors"
    tensors, metadata = read_tensors(path)
    name = next(name for name in tensors if name.endswith("/exp_avg") and tensors[name].ndim == 2)
    changed = tensors[name].long() if isinstance(odd, str) else odd
    write_tensors(path, {**tensors, name: changed}, metadata)
    _rewrite(state, "schema", 2)
    with pytest.raises(DlcliError, match=r"does not belong to this model: its .*exp_avg is torch"):
        resume(run)


def test_a_copy_of_a_state_is_no_state(tmp_path: Path) -> None:
    run = train(tmp_path).run
    state, _ = load_newest(run.state)
    assert state is not None
    shutil.copytree(state.path, state.path.with_name(state.path.name + ".bak"))
    again, warnings = load_newest(run.state)
    assert again is not None
    assert (again.path, warnings) == (state.path, [])


def test_a_state_without_its_manifest_gives_up_its_name(tmp_path: Path) -> None:
    run = train(tmp_path).run
    (only,) = run.state.iterdir()
    (only / "manifest.json").unlink()
    resume(run)
    state, _ = load_newest(run.state)
    assert state is not None
    assert state.path == only.with_name(only.name + ".1")


def test_a_record_that_is_no_mapping_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.record.write_text("[]")
    with pytest.raises(DlcliError, match="holds no mapping"):
        run.read_record()


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    """The best model and the last state of a run."""
    state, _ = load_newest(run / "state")
    assert state is not None
    best, _ = read_tensors(run / "best.safetensors")
    return dict(state.tensors) | {f"best/{key}": value for key, value in best.items()}


@pytest.mark.parametrize("scheduler", ["onecycle", pytest.param("plateau", marks=pytest.mark.slow)])
def test_the_settings_of_a_run_whose_epochs_were_raised_repeat_it_bit_for_bit(
    here: Path, scheduler: str
) -> None:
    assert main([*TINY, "-e", "2", "--scheduler", scheduler]) == 0
    assert main(["train", "--resume", "a", "-e", "3", "-q"]) == 0
    assert main(["train", "--resume", "a", "-e", "5", "-q"]) == 0
    history = ((0, 2), (6, 3), (9, 5))
    assert read_run(RunFolder(here / "runs/a")).config.fit.epochs_history == history
    for name, config in (("b", "runs/a"), ("c", "runs/a/config.yaml")):
        assert main(["train", "--config", config, "--name", name, "-q"]) == 0
        repeated, first = tensors_of(here / "runs" / name), tensors_of(here / "runs/a")
        assert all(torch.equal(repeated[key], value) for key, value in first.items())
    epochs = [
        [
            (event["lr"], event["loss"])
            for event in read_events(here / f"runs/{name}/metrics.jsonl")
            if event["event"] == "EpochDone"
        ]
        for name in ("a", "b")
    ]
    assert epochs[0] == epochs[1]
    assert len(epochs[0]) == 5


def test_other_epochs_than_those_of_the_history_are_a_schedule_of_their_own() -> None:
    fit = TrainConfig().fit.model_copy(update={"epochs": 4})
    raised = fit.with_epochs_from(12, 6).with_epochs_from(20, 9)
    assert raised.epochs_history == ((0, 4), (12, 6), (20, 9))
    assert [raised.planned_epochs(step) for step in (0, 11, 12, 19, 20, 50)] == [4, 4, 6, 6, 9, 9]
    # Resumed from an older state, the steps after it are trained anew.
    assert raised.with_epochs_from(15, 9).epochs_history == ((0, 4), (12, 6), (15, 9))
    assert raised.with_epochs_from(0, 9).epochs_history == ()
    assert raised.model_copy(update={"epochs": 7}).planned_epochs(0) == 7
    with pytest.raises(UsageError, match=r"fit\.epochs_history"):
        validate(TrainConfig, {"fit": {"epochs_history": [[3, 4]]}})


@pytest.mark.slow
def test_settings_of_a_run_that_cannot_repeat_it_say_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, "-e", "1"]) == 0
    assert main(["train", "--resume", "a", "-e", "2", "-q"]) == 0
    assert main(["train", "--config", "runs/a", "--name", "b"]) == 0
    assert "was resumed with other settings" not in capsys.readouterr().err
    assert main(["train", "--resume", "a", "-e", "3", "--lr", "0.5", "--force", "-q"]) == 0
    assert main(["train", "--config", "runs/a", "--name", "c"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "run a was resumed with other settings (optim.lr: 0.001 -> 0.5 at step 6)" in err
