"""Whether TPE finds better settings than random search, with the same number of trials.

python benchmarks/tuning.py [--quick] [--trials N] [--seeds N] [digits] [TABLE.csv=TARGET ...]

Each seed is a study with each sampler, on the same splits; both begin with the default settings and TPE
with six random trials. The best validation metric counts, as it is what was searched for, and the test
split's figure of that trial is shown. ``--quick``: digits, 2 seeds, 10 trials of 3 epochs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from common import machine

from dlcli.cli import main as dlcli

SAMPLERS = ("random", "tpe")


def search(data: list[str], sampler: str, seed: int, options: list[str]) -> tuple[float, ...]:
    """Return the best validation metric of a study, the default trial's, and the best one's on test."""
    with tempfile.TemporaryDirectory() as root:
        command = ["tune", *data, "--sampler", sampler, "--seed", str(seed), "--name", "study"]
        code = dlcli([*command, *options, "--runs-dir", root, "-q"])
        if code:
            raise SystemExit(code)
        result = json.loads((Path(root) / "study" / "result.json").read_text())
    test = result["test"]["metrics"][result["monitor"]] if result["test"] else float("nan")
    return result["best"]["value"], result["trials"][0]["value"], test


def data_of(name: str) -> list[str]:
    """Return the options of a data set: digits, or a table and its target."""
    if name == "digits":
        return ["--model", "cnn", "--data", "digits"]
    path, _, target = name.partition("=")
    return ["--model", "mlp", "--data", path, "--target", target]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", default=["digits"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    trials, seeds, options = given.trials, given.seeds, ["--pruner", "none"]
    if given.quick:
        trials, seeds, options = 10, 2, [*options, "--epochs", "3"]
    rows = []
    for name in given.data:
        for seed in range(seeds):
            for sampler in SAMPLERS:
                found = search(data_of(name), sampler, seed, ["--trials", str(trials), *options])
                rows.append((name, seed, sampler, *found))
    print(f"{machine()}; {trials} trials a study")
    print(f"{'data':<16} seed  sampler   best val   default   its test")
    for name, seed, sampler, best, default, test in rows:
        figures = f"{best:>10.5g} {default:>9.5g} {test:>10.5g}"
        print(f"{Path(name).name[:16]:<16} {seed:>4}  {sampler:<7} {figures}")
    for name in given.data:
        for sampler in SAMPLERS:
            values = [row[3] for row in rows if row[0] == name and row[2] == sampler]
            spread = f"{min(values):.5g} to {max(values):.5g}"
            print(f"{name} {sampler}: mean {statistics.mean(values):.5g} ({spread}, n={len(values)})")


if __name__ == "__main__":
    main()
