"""Runs that are killed at a random moment, resumed, and compared with one that was not, bit for bit."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from forked import SIGNALS, command, interrupt, start, wait

from dlcli.formats.checkpoint import read_tensors

TRAIN = (
    *(
        "train",
        "--model",
        "mlp",
        "--data",
        "digits",
        "--name",
        "run",
        "--epochs",
        "6",
        "--device",
        "cpu",
    ),
    *(
        "--checkpoint-every",
        "2",
        "--batch-size",
        "128",
        "--set",
        "model.args={widths: [32], dropout: 0.2}",
    ),
    *("--set", "fit.ema=0.99", "-q"),
)
RESUME = ("train", "--resume", "run", "-q")


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    """The tensors of the best model and of the newest state; the state's have generators and moments."""
    states = (run / "state").glob("step-*/tensors.safetensors")
    newest = max(states, key=lambda path: tuple(map(int, path.parent.name[5:].split("."))))
    files = {"best": run / "best.safetensors", "state": newest}
    return {
        f"{key}/{name}": t for key, path in files.items() for name, t in read_tensors(path)[0].items()
    }


def measure(folder: Path, trials: int, rng: random.Random) -> dict[str, Any]:
    """Kill ``trials`` runs, each once, at a moment drawn evenly over the time that a whole run takes."""
    log = folder / "log"
    whole = folder / "whole"
    whole.mkdir()
    began = time.monotonic()
    code, printed = command(TRAIN, whole, log)
    assert code == 0, printed
    seconds = time.monotonic() - began
    expected = tensors_of(whole / "runs" / "run")
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for number in range(trials):
        place = folder / f"kill-{number}"
        place.mkdir()
        name = rng.choice(list(SIGNALS))
        moment = rng.uniform(0, seconds)
        pid = start(TRAIN, place, log)
        killed = interrupt(pid, moment, SIGNALS[name])
        wait(pid)
        run = place / "runs" / "run"
        began_a_run = (run / "run.json").is_file()
        has_state = any(run.glob("state/step-*"))
        if not began_a_run:  # there was nothing to resume: the same command begins anew
            run = place / "runs" / ("run-2" if run.exists() else "run")
        code, printed = command(RESUME if began_a_run else TRAIN, place, log)
        same = code == 0 and _equal(tensors_of(run), expected)
        counts[f"SIG{name}" if killed else "finished before the signal"] += 1
        counts["before the run had a folder"] += killed and not began_a_run
        counts["after the first state"] += killed and has_state
        counts["same bits"] += same
        if not same:
            failures.append(f"SIG{name} after {moment:.3f} s: exit {code}: {printed[-300:]}")
    return {"trials": trials, **counts, "failures": failures}


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
