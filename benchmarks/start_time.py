"""How long ``dlcli``, its ``--help`` and a prediction take beside a bare program of typer and rich.

python benchmarks/start_time.py [--rounds 15] [--predict MODEL PHOTO]

Wall and CPU time (Linux, macOS), of processes that find byte code as an installed dlcli does.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from common import interleave, machine, ratios, spread

BARE = '''
import rich
import typer

app = typer.Typer()


@app.command()
def train(data: str, epochs: int = 10) -> None:
    """Train a model on your data."""


@app.command()
def predict(file: str) -> None:
    """Label files with a trained model."""


app()
'''


def seconds(argv: list[str], cpu_s: list[float]) -> float:
    """Run a program; returns its time on the clock and appends its CPU time, user and system."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    t0, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, stdout=subprocess.DEVNULL, env=environ, check=True)
    wall_s, after = time.perf_counter() - t0, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--predict", nargs=2, metavar=("MODEL", "PHOTO"))
    args = parser.parse_args()
    rounds = args.rounds
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        argvs = {
            "bare": [str(bare), "--help"],
            "dlcli": ["-m", "dlcli"],
            "dlcli --help": ["-m", "dlcli", "--help"],
            "dlcli train --help": ["-m", "dlcli", "train", "--help"],
        }
        if args.predict:
            model, photo = args.predict
            argvs["dlcli predict"] = ["-m", "dlcli", "predict", "--artifact", model, photo]
        cpu_s: dict[str, list[float]] = {name: [] for name in argvs}
        runs = {
            name: partial(seconds, [sys.executable, *argv], cpu_s[name]) for name, argv in argvs.items()
        }
        for name, run in runs.items():
            run()  # byte code is compiled once
            cpu_s[name].clear()
        found = interleave(runs, rounds)
    print(machine())
    for name, values in found.items():
        print(f"{name}: {spread(values)} s, {ratios(values, found['bare'])} x bare")
        print(f"  CPU time: {spread(cpu_s[name])} s, {ratios(cpu_s[name], cpu_s['bare'])} x bare")


if __name__ == "__main__":
    main()
