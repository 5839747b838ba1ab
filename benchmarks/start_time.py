"""How long ``dlcli`` and ``dlcli --help`` take beside a bare typer and rich program's. Bar: 2x.

python benchmarks/start_time.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
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


def seconds(argv: list[str]) -> float:
    t0 = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - t0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        runs = {
            "bare": lambda: seconds([sys.executable, str(bare), "--help"]),
            "dlcli": lambda: seconds([sys.executable, "-m", "dlcli"]),
            "dlcli --help": lambda: seconds([sys.executable, "-m", "dlcli", "--help"]),
            "dlcli train --help": lambda: seconds([sys.executable, "-m", "dlcli", "train", "--help"]),
        }
        for run in runs.values():
            run()  # byte code is compiled once
        found = interleave(runs, rounds)
    print(machine())
    for name, values in found.items():
        print(f"{name}: {spread(values)} s, {ratios(values, found['bare'])} x bare")


if __name__ == "__main__":
    main()
