"""Training speed of dlcli beside other loops: same data, model, batch size and epochs, in turn.

    benchmarks/peers/install.sh VENV     # Lightning and Ultralytics, in a Python of their own
    python benchmarks/training_speed.py DATA_ROOT --peers VENV/bin/python [--quick]

DATA_ROOT holds fashion_mnist, clothing_small and trec. Rows: ``cnn`` and ``mlp`` on Fashion-MNIST with
batches of 64, ``resnet18`` from scratch on photos at 128 px with batches of 32, ``frozen``, the same
with all but the last layer frozen, ``lstm`` and ``transformer`` on TREC's questions with batches of 64.
Programs: dlcli by its own defaults and with ``--amp none``; the textbook loop (a DataLoader, ``.item()``
in each step) without and with workers, its texts padded to the longest of the batch; ``padded``, the
same with texts padded to the longest of all; six lines over one tensor in memory; Lightning; for photos
Ultralytics. Every program is a process of its own with the same number of threads. Figures are samples a
second over the steps of the last epoch, with reading and augmentation, without validation; for
``frozen``, whose first epoch is another than the rest, over the whole program from its start to its
end, validation included. The accuracy is that of the test split. ``--clock cpu`` counts processor
seconds instead of those on the wall, which other programs on the machine disturb less; programs with
workers are left out, as their seconds would not count. ``--output FILE`` writes all as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import machine, ratios, spread

ROWS = ("cnn", "mlp", "resnet18", "frozen", "lstm", "transformer")
IMAGES, PHOTOS, TEXTS = ROWS[:2], ROWS[2:4], ROWS[4:]
SCRATCH = ["--model", "resnet18", "--no-pretrained", "--img-size", "128", "--batch-size", "32"]
ARGS = {
    "cnn": ["--model", "cnn", "--batch-size", "64"],
    "mlp": ["--model", "mlp", "--batch-size", "64"],
    "resnet18": SCRATCH,
    "frozen": [*SCRATCH, "--freeze", "backbone"],
    "lstm": ["--model", "lstm", "--batch-size", "64"],
    "transformer": ["--model", "transformer", "--batch-size", "64"],
}
PROGRAMS = {
    "dlcli": ROWS,
    "dlcli --amp none": ROWS,
    "textbook": ROWS,
    "textbook, 2 workers": (*IMAGES, *PHOTOS),
    "padded": TEXTS,
    "in-memory": IMAGES,
    "lightning": ("cnn", "mlp", "resnet18", *TEXTS),
    "ultralytics": ("resnet18",),
}
LOOPS = Path(__file__).parent / "peers" / "loops.py"
# Before a program is imported, so that all of its own figures are of processor seconds.
CPU_CLOCK = """
import runpy, sys, time
time.perf_counter = time.process_time
sys.argv = sys.argv[1:]
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Measured:
    """``rate`` in samples a second, ``accuracy`` of the test split."""

    rate: float
    accuracy: float
    note: str = ""


def run_dlcli(row: str, data: str, epochs: int, extra: list[str], seed: int, clock: str) -> Measured:
    """Train and evaluate by the command line; the rate is that of the last epoch's events.

    Of ``frozen`` it is that of all epochs over the seconds of the whole program.
    """
    with tempfile.TemporaryDirectory() as folder:
        said = [*ARGS[row], "--data", data, "--epochs", str(epochs), "--device", "cpu", "--quiet"]
        start = ["-m", "dlcli"] if clock == "wall" else ["-c", CPU_CLOCK, "dlcli"]
        command = [sys.executable, *start, "train", *said, "--seed", str(seed), *extra]
        command += ["--runs-dir", folder, "--name", "run"]
        fresh = {**os.environ, "XDG_CACHE_HOME": folder}  # nothing is taken from earlier runs
        t0 = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=fresh)
        seconds = time.perf_counter() - t0
        run = Path(folder) / "run"
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        epoch = [event for event in events if "epoch_s" in event][-1]
        out = subprocess.run(
            [sys.executable, "-m", "dlcli", "eval", str(run), "--json"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        notes = json.loads((run / "run.json").read_text()).get("notes", [])
        note = next((text for text in notes if "on this CPU" in text), "")
        rate = float(epoch["samples_per_s"])
        if row == "frozen":
            rate = epochs * count(row, data) / seconds
        return Measured(rate, _accuracy(json.loads(out.stdout)), note)


def count(row: str, data: str) -> int:
    """The samples that a program trains on in an epoch."""
    if row in PHOTOS:
        return sum(1 for _ in (Path(data) / "train").glob("*/*"))
    if row in TEXTS:
        return (Path(data) / "TREC.train.all").read_bytes().count(b"\n")
    return 60_000


def _accuracy(result: dict[str, Any]) -> float:
    metrics = result["metrics"]
    return float(metrics.get("accuracy", next(iter(metrics.values()))))


def run_peer(
    python: str, program: str, row: str, data: str, epochs: int, seed: int, clock: str
) -> Measured:
    name, _, workers = program.partition(", ")
    command = [python, *([] if clock == "wall" else ["-c", CPU_CLOCK]), str(LOOPS), name, row, data]
    command += ["--epochs", str(epochs), "--seed", str(seed)]
    t0 = time.perf_counter()
    out = subprocess.run(
        [*command, "--workers", workers.partition(" ")[0] or "0"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(out.stdout.strip().splitlines()[-1])
    samples, seconds = count(row, data), found["epoch_s"][-1]
    if row == "frozen":
        samples, seconds = epochs * samples, time.perf_counter() - t0
    return Measured(samples / seconds, float(found["accuracy"]))


def measure(row: str, data: str, args: argparse.Namespace) -> dict[str, list[Measured]]:
    """Each program in turn, ``args.rounds`` times, with another seed in each round."""
    programs = [name for name, rows in PROGRAMS.items() if row in rows and name in args.programs]
    if args.clock == "cpu":
        programs = [name for name in programs if "workers" not in name]
    if args.peers is None:
        programs = [name for name in programs if name not in ("lightning", "ultralytics")]
    found: dict[str, list[Measured]] = {name: [] for name in programs}
    for number in range(args.rounds):
        for name in programs:
            if name.startswith("dlcli"):
                one = run_dlcli(row, data, args.epochs, name.split()[1:], number, args.clock)
            else:
                python = args.peers or sys.executable
                one = run_peer(python, name, row, data, args.epochs, number, args.clock)
            found[name].append(one)
            line = f"{one.rate:,.0f} samples/s, test {one.accuracy:.4f} {one.note}"
            print(f"  round {number + 1}  {row}  {name}: {line}", flush=True)
    return found


def report(row: str, found: dict[str, list[Measured]]) -> None:
    ours = [one.rate for one in found["dlcli"]]
    for name, all_of in found.items():
        rates = [one.rate for one in all_of]
        scores = [one.accuracy for one in all_of]
        print(
            f"{row}  {name}: {spread(rates)} samples/s; dlcli is {ratios(ours, rates)} x; test accuracy "
            f"{statistics.mean(scores):.4f} ({min(scores):.4f} to {max(scores):.4f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--peers", help="a Python that has lightning and ultralytics")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--quick", action="store_true", help="one round of one epoch")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.epochs = 1, 1
    if args.threads != torch.get_num_threads():  # a number that is given leaves dlcli nothing to try
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    load = os.getloadavg()[0]
    print(machine(), f"{args.threads} threads, {args.clock} time, load {load:.1f}", flush=True)
    everything = {}
    for row in args.rows:
        folder = "clothing_small" if row in PHOTOS else "trec" if row in TEXTS else "fashion_mnist"
        found = measure(row, str(args.root / folder), args)
        report(row, found)
        everything[row] = {name: [vars(one) for one in all_of] for name, all_of in found.items()}
    if args.output is not None:
        args.output.write_text(json.dumps({"machine": machine(), **everything}, indent=2))


if __name__ == "__main__":
    main()
