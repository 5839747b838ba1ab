"""A study that is killed again and again, compared with one that was not.

python benchmarks/robustness_studies.py [--kills 20] [--trials 12] [--folds 3] [--seed 0]

``kills`` of `robustness.py` does the same to runs. With ``--folds`` each trial is a cross-validation.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from common import machine
from forked import command, start, wait

from dlcli.formats.checkpoint import read_tensors
from dlcli.subprocesses import describe_exit

DATA = ("--model", "mlp", "--data", "digits", "--device", "cpu", "--set", "model.args.widths=[32]")
RESUME = ("tune", "--resume", "study", "-q")
EXACT = ("number", "status", "settings", "value", "epochs", "reason")


def tune(trials: int, folds: int) -> tuple[str, ...]:
    """The command of the study; ``folds`` is 0 for trials without."""
    budget = ("--trials", str(trials), "--epochs", "4", "--batch-size", "128")
    return ("tune", *DATA, *budget, *(("--folds", str(folds)) if folds else ()), "--name", "study", "-q")


def trials_of(study: Path) -> list[dict[str, Any]]:
    """What each trial tried and gave."""
    result = json.loads((study / "result.json").read_text())
    return [{key: trial[key] for key in EXACT} for trial in result["trials"]]


def is_same(study: Path, whole: Path) -> bool:
    """Whether two studies have the same trials, and the same bits in their models."""
    if trials_of(study) != trials_of(whole):
        return False
    for path in whole.rglob("*.safetensors"):
        if "state" in path.parts:
            continue
        expected, own = (read_tensors(root / path.relative_to(whole))[0] for root in (whole, study))
        if expected.keys() != own.keys() or not all(torch.equal(expected[k], own[k]) for k in expected):
            return False
    return True


def measure(folder: Path, kills: int, rng: random.Random, trials: int, folds: int) -> dict[str, Any]:
    """Kill one study ``kills`` times, at moments drawn evenly over its trials and the time of each."""
    log, whole, place = folder / "log", folder / "whole", folder / "killed"
    whole.mkdir()
    place.mkdir()
    began = time.monotonic()
    code, printed = command(tune(trials, folds), whole, log)
    assert code == 0, printed
    seconds = (time.monotonic() - began) / trials
    counts: Counter[str] = Counter()
    failures: list[str] = []
    study = place / "runs" / "study"

    def argv() -> tuple[str, ...]:
        return RESUME if (study / "study.json").is_file() else tune(trials, folds)

    for moment in sorted(rng.uniform(0, trials) for _ in range(kills)):
        pid = start(argv(), place, log)
        while not (study / f"trial-{int(moment):03d}").is_dir() and is_alive(pid):
            time.sleep(0.005)
        time.sleep(moment % 1 * seconds)
        os.kill(pid, 9)
        ended = wait(pid)
        counts["killed"] += ended == -9
        counts["ended before the kill"] += ended == 0
        if ended not in (-9, 0):
            failures.append(f"trial {moment:.3f}: {describe_exit(ended)}: {log.read_text()[-300:]}")
    code, printed = command(argv(), place, log)
    if code != 0 or not is_same(study, whole / "runs" / "study"):
        failures.append(f"another study: exit {code}: {printed[-300:]}")
    return {
        "kills": kills,
        "trials": trials,
        "folds": folds,
        "trial_s": round(seconds, 2),
        **counts,
        "failures": failures,
    }


def is_alive(pid: int) -> bool:
    """Whether a child still runs; one that has ended waits for `wait`."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DLCLI_STATE"] = str(Path(folder, "state-of-the-user"))
        result = measure(Path(folder), args.kills, random.Random(args.seed), args.trials, args.folds)
        print(json.dumps(result, indent=2), flush=True)
    print(machine())
    raise SystemExit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
