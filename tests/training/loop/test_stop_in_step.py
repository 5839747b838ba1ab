"""Signals within a step, and the terminal's end: the state before the step is saved, and exact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.events import ignore
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.signals import stop_signals
from dlcli.training import run as training
from dlcli.training.loop import step as step_module
from dlcli.training.loop.state import load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run

HANGUP = getattr(signal, "SIGHUP", signal.SIGINT)
# Dropout and batch norms: both have a state that the micro-batches before the signal have changed.
SETTINGS = {
    "data": {"data": "digits"},
    "model": {"name": "mlp", "args": {"widths": [8], "dropout": 0.3}},
    "fit": {"epochs": 2, "batch_size": 600, "grad_accum_steps": 3, "device": "cpu"},
}


def begin(root: Path, name: str) -> training.TrainResult:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, SETTINGS)))
    prepared = prepare_run(plan)
    return training.train(prepared, training.new_run(prepared, root, name), ignore, state=None)


def resume(run: RunFolder) -> training.TrainResult:
    state, _ = load_newest(run.state)
    prepared = prepare_run(read_plan(read_run(run), fresh=state is None))
    return training.train(prepared, run, ignore, state=state)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, HANGUP])
@pytest.mark.parametrize("call", [1, 2, 7])  # micro-batches, from 1: of steps 1, 1 and 3
def test_a_signal_between_micro_batches_leaves_the_step_and_resuming_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int, call: int
) -> None:
    begin(tmp_path, "undisturbed")
    real, calls = step_module._forward_backward, []

    def forward_backward(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signum)
        return real(*args)

    monkeypatch.setattr(step_module, "_forward_backward", forward_backward)
    result = begin(tmp_path, "stopped")
    assert result.fit.signum == signum
    assert len(calls) == call  # none of the step's micro-batches after the signal
    assert result.fit.progress.step == (call - 1) // 3
    resume(result.run)
    ends = [load_newest(RunFolder(tmp_path / name).state)[0] for name in ("undisturbed", "stopped")]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].tensors.keys() == ends[1].tensors.keys()
    assert all(torch.equal(ends[0].tensors[key], ends[1].tensors[key]) for key in ends[0].tensors)
    best = [(tmp_path / name / "best.safetensors").read_bytes() for name in ("undisturbed", "stopped")]
    assert len(best[0]) == len(best[1])


def test_sighup_is_no_stop_signal_where_it_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("no SIGHUP here")
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert signal.SIGHUP in stop_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        assert signal.SIGHUP not in stop_signals()
        assert signal.SIGTERM in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a pseudo-terminal")
def test_a_run_whose_terminal_is_closed_saves_and_says_so_in_its_record(tmp_path: Path) -> None:
    master, slave = os.openpty()
    command = [
        sys.executable, "-m", "dlcli", "train", "-m", "mlp", "-d", "digits", "--device", "cpu",
        "-e", "100000", "--name", "a", "--set", "fit.log_every=0",
    ]  # fmt: skip
    child = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path, start_new_session=True
    )
    os.close(slave)
    seen = b""
    while b"epoch" not in seen[-4000:] or not (tmp_path / "runs/a/best.safetensors").exists():
        seen += os.read(master, 65536)
        assert child.poll() is None, seen
    os.close(master)  # writes fail from here on
    child.send_signal(signal.SIGHUP)
    assert child.wait(60) == 128 + signal.SIGHUP
    run = RunFolder(tmp_path / "runs/a")
    assert run.read_record()["status"] == "interrupted"
    assert load_newest(run.state)[0] is not None


@pytest.mark.parametrize("option", [["--epochs", "1"], ["--max-steps", "3"]])
def test_a_limit_below_what_was_trained_is_refused_also_within_an_epoch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    real, steps = step_module._update, []

    def update(*args: Any) -> Any:
        steps.append(1)
        if len(steps) == 5:  # of three steps an epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(step_module, "_update", update)
    train: Callable[..., int] = main
    begun = ["-m", "mlp", "-d", "digits", "--device", "cpu", "-b", "500", "--name", "a", "-q"]
    assert train(["train", *begun, "-e", "4"]) == 128 + signal.SIGTERM
    assert train(["train", "--resume", "a", *option]) == 2
    err = capsys.readouterr().err
    assert ("is in epoch 2 already" in err) or ("has done 5 steps already" in err)
    assert train(["train", "--resume", "a", "--epochs", "2", "-q"]) == 0
