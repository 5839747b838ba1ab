"""Runs with code of the user's: resumed bit for bit, divided into micro-batches, mended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import write_houses
from training_runs import resume_run, train_run

from dlcli.cli import main
from dlcli.events import Event, StepDone, ignore
from dlcli.formats.checkpoint import read_tensors
from dlcli.runs.folder import RunFolder, read_events
from dlcli.settings import merge
from dlcli.training.loop.state import load_newest
from dlcli.trust import ALL, allowing

LOSSES = """
from torch.nn import functional as F

def focal(outputs, targets, gamma=2.0):
    log_p = F.log_softmax(outputs, dim=1).gather(1, targets[:, None])[:, 0]
    return -((1 - log_p.exp()) ** gamma) * log_p
"""
OPTIMIZERS = """
import torch

class Averaged(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, beta=0.9, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["steps"], state["mean"] = 0, torch.zeros_like(p)
                state["steps"] += 1
                state["mean"].lerp_(p.grad + group["weight_decay"] * p, 1 - group["beta"])
                p.sub_(group["lr"] * state["mean"] / (1 - group["beta"] ** state["steps"]))
"""
SCHEDULES = """
def root(share, power=0.5):
    return (1 - share) ** power
"""
AUGMENTATIONS = """
import torch

def make(most=1):
    def shift(image):
        return torch.roll(image, int(torch.randint(-most, most + 1, ())), dims=2)
    return shift

def noise(row, std=0.1):
    return row + std * torch.randn_like(row)
"""
# Settings of each sort of code. 1,439 digits in batches of 300 are 5 steps an epoch.
CODE: dict[str, dict[str, Any]] = {
    "loss": {"loss": {"name": "losses.py:focal", "args": {"gamma": 1.5}}},
    "optimizer": {"optim": {"optimizer": "optimizers.py:Averaged", "lr": 0.02, "args": {"beta": 0.8}}},
    "schedule": {"optim": {"scheduler": "schedules.py:root", "warmup": 0.2, "args": {"power": 2}}},
    "augmentation": {"augment": {"level": "augmentations.py:make", "args": {"make": {"most": 2}}}},
    "augmentation of rows": {
        "augment": {"level": "augmentations.py:noise", "args": {"noise": {"std": 0.3}}},
        "data": {"data": "houses.csv"},
        "fit": {"batch_size": 13},
    },
}
FILES = {
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "augmentations": AUGMENTATIONS,
}
BASE = {
    "data": {"data": "digits"},
    "model": {"name": "mlp", "args": {"widths": [8], "norm": "none", "dropout": 0.0}},
    "optim": {"optimizer": "momentum", "lr": 0.05},
    "fit": {"epochs": 2, "batch_size": 300, "checkpoint_every": "2", "log_every": 0, "device": "cpu"},
}


class Killed(BaseException):
    """What a SIGKILL is to the code: nothing after it runs."""


@pytest.fixture(autouse=True)
def _code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files of code, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, code in FILES.items():
        Path(f"{name}.py").write_text(code)
    write_houses(tmp_path)
    with allowing(ALL):
        yield


def train(name: str, emit: Callable[[Event], None] = ignore, **changes: Any) -> RunFolder:
    return train_run(Path("runs"), name, BASE, changes, emit=emit)


def outcome(run: RunFolder) -> dict[str, torch.Tensor]:
    """The tensors of the last state and of the best model."""
    state, _ = load_newest(run.state)
    assert state is not None
    return state.tensors | {f"best/{k}": v for k, v in read_tensors(run.best)[0].items()}


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return {k: v for k, v in outcome(run).items() if k.startswith("model/")}


@pytest.mark.parametrize("kind", CODE)
def test_a_killed_run_goes_on_bit_for_bit(kind: str) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 7:
            raise Killed

    whole = outcome(train("whole", **CODE[kind]))
    with pytest.raises(Killed):
        train("killed", kill, **CODE[kind])
    run = RunFolder(Path("runs/killed"))
    resume_run(run)
    again = outcome(run)
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[key], whole[key]) for key in whole)


@pytest.mark.parametrize("kind", CODE)
def test_micro_batches_are_the_whole_batch(kind: str) -> None:
    whole = weights(train("whole", **CODE[kind]))
    divided = weights(train("divided", **merge(CODE[kind], {"fit": {"grad_accum_steps": 3}})))
    plain = weights(train("plain", **{k: v for k, v in CODE[kind].items() if k in ("data", "fit")}))
    for name, tensor in whole.items():
        torch.testing.assert_close(divided[name], tensor, atol=1e-5, rtol=1e-4)
    assert any(not torch.equal(plain[name], tensor) for name, tensor in whole.items())


@pytest.mark.slow  # two starts of two processes
@pytest.mark.parametrize(
    "options",
    [
        "-d digits -b 300 --loss losses.py:focal --augment augmentations.py:make",
        "-d houses.csv -b 13 --augment augmentations.py:noise",
    ],
)
def test_two_processes_learn_what_one_learns(tmp_path: Path, options: str) -> None:
    settings = ("model.args.norm=none", "model.args.dropout=0", "fit.min_steps=1", "fit.log_every=0")
    common = ["train", "-m", "mlp", "--device", "cpu", "-e", "1", "-q", *options.split()]
    common += ["--optimizer", "optimizers.py:Averaged", "--scheduler", "schedules.py:root"]
    common += [text for setting in settings for text in ("--set", setting)]
    assert main([*common, "--name", "one"]) == 0
    two_processes = [*common, "--name", "two", "--devices", "2"]
    subprocess.run([sys.executable, "-m", "dlcli", *two_processes], check=True, timeout=300)
    events = [read_events(RunFolder(Path("runs") / name).metrics) for name in ("one", "two")]
    one, two = ([e["loss"] for e in run if e["event"] == "StepDone"] for run in events)
    assert len(one) == 5
    assert one == pytest.approx(two, rel=1e-4)


def test_a_mistake_at_a_late_step_is_mended_and_the_run_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    loss = "from torch.nn import functional as F\nsteps = []\ndef own(outputs, targets):\n"
    bad = f"{loss}    steps.append(1)\n    if len(steps) > 20:\n        outputs.oops()\n"
    mean = "    return F.cross_entropy(outputs, targets)\n"
    Path("late.py").write_text(bad + mean)
    train = ["train", "-m", "linear", "-d", "digits", "--device", "cpu", "-b", "300", "-e", "4", "-q"]
    save = ["--set", "fit.min_steps=1", "--set", "fit.checkpoint_every='2'"]
    assert main([*train, *save, "--loss", "late.py:own", "--name", "late"]) == 1
    err = capsys.readouterr().err
    assert (
        "AttributeError: 'Tensor' object has no attribute 'oops', in late.py line 6: outputs.oops()"
        in err
    )
    assert RunFolder(Path("runs/late")).read_record()["status"] == "failed"
    state, _ = load_newest(RunFolder(Path("runs/late")).state)
    assert state is not None
    Path("late.py").write_text(loss + mean)
    assert main(["train", "--resume", "late", "-q"]) == 1
    assert "has changed since run late began" in " ".join(capsys.readouterr().err.split())
    assert main(["train", "--resume", "late", "-q", "--force"]) == 0
    record = RunFolder(Path("runs/late")).read_record()
    assert record["status"] == "finished"
    assert len(record["code"]) == 1
