"""Training speed of dlcli beside other loops: same data, model, batch size and epochs, in turn.

    benchmarks/peers/install.sh VENV     # Lightning and Ultralytics, in a Python of their own
    python benchmarks/training_speed.py FASHION_MNIST PHOTOS --peers VENV/bin/python [--quick]

Rows: ``cnn`` and ``mlp`` on Fashion-MNIST with batches of 64, ``resnet18`` from scratch on photos at 128
px with batches of 32. Programs: dlcli by its own defaults and with ``--amp none``; the textbook loop (a
DataLoader, ``.item()`` in each step) without and with workers; six lines over one tensor in memory;
Lightning; for photos Ultralytics. Every program is a process of its own with the same number of threads.
Figures are samples a second over the steps of the last epoch, with reading and augmentation, without
validation; the accuracy is that of the test split. ``--clock cpu`` counts processor seconds instead of
those on the wall, which other programs on the machine disturb less; programs with workers are left out,
as their seconds would not count. ``--output FILE`` writes all as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import machine, ratios, spread

ROWS = ("cnn", "mlp", "resnet18")
ARGS = {
    "cnn": ["--model", "cnn", "--batch-size", "64"],
    "mlp": ["--model", "mlp", "--batch-size", "64"],
    "resnet18": ["--model", "resnet18", "--no-pretrained", "--img-size", "128", "--batch-size", "32"],
}
PROGRAMS = {
    "dlcli": ROWS,
    "dlcli --amp none": ROWS,
    "textbook": ROWS,
    "textbook, 2 workers": ROWS,
    "in-memory": ("cnn", "mlp"),
    "lightning": ROWS,
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
    """Train and evaluate by the command line; the rate is that of the last epoch's events."""
    with tempfile.TemporaryDirectory() as folder:
        said = [*ARGS[row], "--data", data, "--epochs", str(epochs), "--device", "cpu", "--quiet"]
        start = ["-m", "dlcli"] if clock == "wall" else ["-c", CPU_CLOCK, "dlcli"]
        command = [sys.executable, *start, "train", *said, "--seed", str(seed), *extra]
        command += ["--runs-dir", folder, "--name", "run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
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
        return Measured(float(epoch["samples_per_s"]), _accuracy(json.loads(out.stdout)), note)


def _accuracy(result: dict[str, Any]) -> float:
    metrics = result["metrics"]
    return float(metrics.get("accuracy", next(iter(metrics.values()))))


def run_peer(
    python: str, program: str, row: str, data: str, epochs: int, samples: int, seed: int, clock: str
) -> Measured:
    name, _, workers = program.partition(", ")
    command = [python, *([] if clock == "wall" else ["-c", CPU_CLOCK]), str(LOOPS), name, row, data]
    command += ["--epochs", str(epochs), "--seed", str(seed)]
    out = subprocess.run(
        [*command, "--workers", workers.partition(" ")[0] or "0"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(out.stdout.strip().splitlines()[-1])
    return Measured(samples / found["epoch_s"][-1], float(found["accuracy"]))


def measure(
    row: str, data: str, samples: dict[str, int], args: argparse.Namespace
) -> dict[str, list[Measured]]:
    """Each program in turn, ``args.rounds`` times, with another seed in each round."""
    programs = [name for name, rows in PROGRAMS.items() if row in rows]
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
                size = samples["train"]
                one = run_peer(python, name, row, data, args.epochs, size, number, args.clock)
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
    parser.add_argument("fashion_mnist")
    parser.add_argument("photos")
    parser.add_argument("--peers", help="a Python that has lightning and ultralytics")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--quick", action="store_true", help="one round of one epoch")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.epochs = 1, 1
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    load = os.getloadavg()[0]
    print(machine(), f"{args.threads} threads, {args.clock} time, load {load:.1f}", flush=True)
    everything = {}
    for row in args.rows:
        data = args.photos if row == "resnet18" else args.fashion_mnist
        folder = Path(data) / "train"
        samples = {"train": sum(1 for file in folder.glob("*/*")) if row == "resnet18" else 60_000}
        found = measure(row, data, samples, args)
        report(row, found)
        everything[row] = {name: [vars(one) for one in all_of] for name, all_of in found.items()}
    if args.output is not None:
        args.output.write_text(json.dumps({"machine": machine(), **everything}, indent=2))


if __name__ == "__main__":
    main()
