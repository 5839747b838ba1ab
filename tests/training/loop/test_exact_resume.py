"""A run that dies at any moment and goes on ends with the same bits, with everything switched on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import resume_run, train_run

from dlcli import files
from dlcli.cli import main
from dlcli.events import Event, StepDone, ignore
from dlcli.formats.checkpoint import read_tensors
from dlcli.runs.folder import RunFolder
from dlcli.training.loop import state as state_module
from dlcli.training.loop.state import load_newest

FIXTURES = Path(__file__).parents[2] / "fixtures"

# 1,439 training digits in batches of 300 are 5 steps an epoch. MixUp, dropout, micro-batches, batch
# norm, both averages, a schedule with a memory of its own, unfrozen layers: the state holds all of it.
EVERYTHING = {
    "data": {"data": "digits"},
    "model": {
        "name": "cnn",
        "args": {"widths": [4, 8], "hidden": 16, "dropout": 0.3},
        "freeze": "features.0",
        "unfreeze": "features.0@40%",
    },
    "augment": {"mixup": 0.4, "cutmix": 1.0, "translate": 0.1},
    "optim": {"lr": 0.02, "scheduler": "plateau", "plateau_patience": 0, "clip_grad_norm": 1.0},
    "fit": {
        "epochs": 3,
        "batch_size": 300,
        "grad_accum_steps": 2,
        "ema": 0.9,
        "swa": 0.3,
        "keep_best": 2,
        "checkpoint_every": "2,1ep",
        "log_every": 0,
        "device": "cpu",
    },
}


class Killed(BaseException):
    """What a SIGKILL is to the code: nothing after it runs."""


def train(root: Path, emit: Callable[[Event], None] = ignore, **changes: Any) -> RunFolder:
    return train_run(root, "run", EVERYTHING, changes, emit=emit)


def outcome(run: RunFolder) -> dict[str, torch.Tensor]:
    """Every tensor that a run leaves: of its last state and of its best models."""
    state, warnings = load_newest(run.state)
    assert state is not None
    assert not warnings
    tensors = dict(state.tensors)
    for path in [run.best, *sorted((run.path / "epochs").glob("*.safetensors"))]:
        tensors |= {f"{path.name}/{k}": v for k, v in read_tensors(path)[0].items()}
    return tensors


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return outcome(train(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("step", [1, 3, 5, 6, 9, 14])
def test_a_run_with_everything_on_goes_on_exactly(
    whole: dict[str, torch.Tensor], tmp_path: Path, step: int
) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path, kill)
    run = RunFolder(tmp_path / "run")
    resume_run(run)
    assert same(outcome(run), whole)


# What a save does to the disk: each call may be the last thing that a process does.
_CALLS = [
    (files.os, "fsync"), (files.os, "replace"), (files.os, "rename"), (files.tempfile, "mkstemp"),
    (files.tempfile, "mkdtemp"), (state_module, "write_tensors"), (state_module.shutil, "rmtree"),
]  # fmt: skip


def test_a_save_that_dies_at_any_of_its_steps_loses_nothing(
    whole: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = 0
    while points < 14:  # the calls of the first save, and the first of the second
        root, calls = tmp_path / str(points), [0]
        with monkeypatch.context() as patch:
            _count_calls(patch, calls, die_at=points)
            with pytest.raises(Killed):
                train(root)
        run = RunFolder(root / "run")
        resume_run(run)
        assert same(outcome(run), whole), f"died at call {points}"
        points += 1


def _count_calls(patch: pytest.MonkeyPatch, calls: list[int], *, die_at: int) -> None:
    """Let the call number ``die_at`` within saves of the state be the last."""
    inside = [False]
    real_save = state_module.save_state

    def save(*args: Any, **kwargs: Any) -> Path:
        inside[0] = True
        try:
            return real_save(*args, **kwargs)
        finally:
            inside[0] = False

    from dlcli.training import run_files

    patch.setattr(run_files, "save_state", save)
    for owner, name in _CALLS:
        real = getattr(owner, name)

        def call(*args: Any, _real: Any = real, **kwargs: Any) -> Any:
            if inside[0]:
                if calls[0] == die_at:
                    raise Killed
                calls[0] += 1
            return _real(*args, **kwargs)

        patch.setattr(owner, name, call)


def test_a_run_of_version_0_1_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Trained and stopped by dlcli 0.1.0; its finished model is what 0.1.0 made of it, on another machine
    # perhaps, whose sums may differ in the last bits.
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURES / "run-v1", tmp_path / "runs" / "v1")
    assert main(["eval", "v1", "--split", "val"]) == 0
    assert main(["train", "--resume", "v1", "-q"]) == 0
    tensors = read_tensors(tmp_path / "runs" / "v1" / "best.safetensors")[0]
    expected = read_tensors(FIXTURES / "run-v1-finished.safetensors")[0]
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_kill_9_at_25_random_moments(tmp_path: Path) -> None:
    settings = ["-m", "cnn", "-d", "digits", "--device", "cpu", "-e", "40", "-b", "100", "-q"]
    settings += ["--checkpoint-every", "7", "--ema", "0.99", "--grad-accum-steps", "2"]
    settings += [
        "--scheduler",
        "plateau",
        "--set",
        "model.args.dropout=0.2",
        "--set",
        "augment.mixup=0.2",
    ]
    dlcli = [sys.executable, "-m", "dlcli", "train"]
    subprocess.run([*dlcli, *settings, "--name", "whole"], cwd=tmp_path, check=True, capture_output=True)
    rng, kills = random.Random(0), 0
    argv, run = [*dlcli, *settings, "--name", "torn"], RunFolder(tmp_path / "runs" / "torn")
    while kills < 25:
        with subprocess.Popen(
            argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            began = time.monotonic()
            while not (run.path / "lock").exists() and time.monotonic() - began < 60:
                time.sleep(0.05)
            _wait_for_the_lock_of(process.pid, run)
            time.sleep(rng.uniform(0.0, 0.8))
            process.send_signal(signal.SIGKILL)
            assert process.stderr is not None
            stderr = process.stderr.read()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, stderr
        kills += 1
        argv = [*dlcli, "--resume", "torn", "-q"]
    subprocess.run([*dlcli, "--resume", "torn", "-q"], cwd=tmp_path, check=True, capture_output=True)
    assert kills >= 10  # of a run that ended sooner than 25 times
    whole = read_tensors(tmp_path / "runs" / "whole" / "best.safetensors")[0]
    assert same(read_tensors(run.best)[0], whole)


def _wait_for_the_lock_of(pid: int, run: RunFolder) -> None:
    """Until the process has begun to train: before that there is nothing to lose."""
    for _ in range(400):
        if str(pid) in (run.path / "lock").read_text():
            return
        time.sleep(0.05)
