"""Seconds and memory of ids, splits and fingerprints as a table grows.

    python benchmarks/growth.py [--rows 10000 100000 1000000] [--output FILE] [--quick]

A CSV of an id, 8 numeric columns, one of categories and the class is generated; each command on it is a
process of its own. ``data`` reads it all, splits it, takes its fingerprint and looks for duplicates and
leakage; ``dry-run`` is what `train` does before its first step, and ``epoch`` is one epoch of the `mlp`
with batches of 1,024. The memory is the peak resident set of the process. What a row costs is the
difference from one size to the next, which leaves out the start of the program: the work is linear where
it stays the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import machine

COMMANDS = {
    "data": ["data"],
    "dry-run": ["train", "--model", "mlp", "--batch-size", "1024", "--dry-run"],
    "epoch": ["train", "--model", "mlp", "--batch-size", "1024", "--epochs", "1"],
}


@dataclass(frozen=True)
class Measured:
    """``seconds`` on the wall and ``peak_mib`` of a command on a table of ``rows``."""

    command: str
    rows: int
    seconds: float
    peak_mib: float


def write_table(path: Path, rows: int) -> None:
    """A CSV whose class follows from two columns."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, 8))
    label = np.where(values[:, 0] + values[:, 1] > 0, "yes", "no")
    colour = rng.choice(["red", "green", "blue"], rows)
    with path.open("w", encoding="utf-8") as file:
        file.write("id," + ",".join(f"x{i}" for i in range(8)) + ",colour,label\n")
        for i in range(rows):
            numbers = ",".join(f"{value:.6f}" for value in values[i])
            file.write(f"row-{i},{numbers},{colour[i]},{label[i]}\n")


def run(name: str, table: Path, rows: int, folder: Path) -> Measured:
    """One command in a process of its own.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    command, *options = COMMANDS[name]
    words = [command, str(table)] if command == "data" else [command, "--data", str(table)]
    words += [*options, "--target", "label"]
    if command == "train":
        words += ["--device", "cpu", "--quiet", "--runs-dir", str(folder / f"runs-{rows}")]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "dlcli", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return Measured(name, rows, seconds, usage.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--quick", action="store_true", help="at most 50,000 rows")
    args = parser.parse_args()
    sizes = [1_000, 10_000, 50_000] if args.quick else args.rows
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory() as root:
        for rows in sizes:
            table = Path(root) / f"{rows}.csv"
            write_table(table, rows)
            for name in args.commands:
                one = run(name, table, rows, Path(root))
                measured.append(one)
                print(
                    f"{name:>8} {rows:>9,} rows {one.seconds:8.1f} s {one.peak_mib:6.0f} MiB", flush=True
                )
            table.unlink()
    for name in args.commands:
        all_of = [one for one in measured if one.command == name]
        for small, large in pairwise(all_of):
            rows = large.rows - small.rows
            seconds, peak = large.seconds - small.seconds, large.peak_mib - small.peak_mib
            print(
                f"{name}, {small.rows:,} to {large.rows:,}: {1e6 * seconds / rows:.1f} µs and "
                f"{peak * 2**20 / rows:.0f} bytes a row"
            )
    print(machine())
    if args.output is not None:
        rows_of = [asdict(one) for one in measured]
        args.output.write_text(json.dumps({"machine": machine(), "measured": rows_of}, indent=2))


if __name__ == "__main__":
    main()
