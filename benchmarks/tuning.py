"""Whether TPE finds better settings than random search, with the same number of trials.

python benchmarks/tuning.py [--root DATA_ROOT] [--only NAME ...] [--trials 16] [--seeds 5]

DATA_ROOT holds trec, california_housing and gunpoint, as their publishers give them; digits come with
scikit-learn. Trials are short and of small data: 500 questions, 1,000 blocks of houses. Each seed is a
study with each sampler, on the same splits. Both begin with the default settings, and TPE goes on with
six random trials. What is searched for is the validation loss, which has no ties, or R2. The best value
of all trials counts; the metric of that trial on the test split is shown too.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from common import machine

from dlcli.cli import main as dlcli

SAMPLERS = ("random", "tpe")
ROWS = {"trec": 500, "housing": 1000}


@dataclass(frozen=True)
class Search:
    """A data set with the options of its trials; ``sign`` is 1 where more of ``monitor`` is better."""

    name: str
    options: str
    monitor: str
    sign: int
    shown: str  # of the test split


SEARCHES = (
    Search("digits", "--model cnn --epochs 3", "loss", -1, "accuracy"),
    Search("trec", "--model cnn --epochs 3 --set fit.min_steps=0", "loss", -1, "accuracy"),
    Search(
        "housing",
        "--model mlp --target median_house_value --epochs 5 --set fit.min_steps=0",
        "r2",
        1,
        "r2",
    ),
    Search(
        "gunpoint",
        "--model cnn --epochs 20 --set data.val_fraction=0.4 --set fit.min_steps=0",
        "loss",
        -1,
        "accuracy",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What a study gave: its best validation value, the default trial's, and the best one's on test."""

    best: float
    default: float
    test: float
    cpu_s: float


def data_of(name: str, root: Path | None, folder: Path) -> str | None:
    """Return the data set to search on, small ones written into ``folder``; None where it is missing."""
    if name == "digits":
        return "digits"
    sources = {
        "trec": "trec/TREC.train.all",
        "housing": "california_housing/housing.csv",
        "gunpoint": "gunpoint",
    }
    if root is None or not (root / sources[name]).exists():
        return None
    if name == "gunpoint":
        return str(root / sources[name])
    path = folder / f"{name}.csv"
    if not path.exists():
        _write_subset(path, _rows(root / sources[name]), ROWS[name])
    return str(path)


def _rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a data set, the names of its columns first."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.reader(file)
        return
    yield ["label", "text"]
    for line in path.read_text(encoding="latin-1").splitlines():
        label, _, text = line.partition(" ")
        yield [label, text]


def _write_subset(path: Path, rows: Iterator[list[str]], count: int) -> None:
    head, *others = rows
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *random.Random(0).sample(others, count)])


def search(search_: Search, data: str, sampler: str, seed: int, trials: int) -> Outcome:
    """Run a study with a sampler."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as root:
        options = f"{search_.options} --monitor {search_.monitor} --pruner none --device cpu".split()
        command = ["tune", "--data", data, *options, "--sampler", sampler, "--seed", str(seed)]
        command += ["--trials", str(trials), "--name", "study", "--runs-dir", root]
        with redirect_stdout(io.StringIO()):
            code = dlcli([*command, "-q"])
        if code:
            raise SystemExit(code)
        result = json.loads((Path(root) / "study" / "result.json").read_text())
    test = result["test"]["metrics"][search_.shown]
    return Outcome(
        result["best"]["value"], result["trials"][0]["value"], test, time.process_time() - began
    )


def figures(values: Sequence[float]) -> str:
    """Return the mean and the range."""
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def summary(search_: Search, outcomes: dict[str, list[Outcome]]) -> str:
    """Return the row of a data set."""
    pairs = zip(outcomes["tpe"], outcomes["random"], strict=True)
    gains = [search_.sign * (tpe.best - other.best) for tpe, other in pairs]
    cells = [f"{search_.name}, `{search_.options}`", f"{search_.monitor} on val"]
    cells.append(figures([one.default for one in outcomes["tpe"]]))
    cells += [figures([one.best for one in outcomes[sampler]]) for sampler in SAMPLERS]
    cells.append(f"{figures(gains)}, better in {sum(gain > 0 for gain in gains)} of {len(gains)}")
    cells += [figures([one.test for one in outcomes[sampler]]) for sampler in SAMPLERS]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--only", nargs="+", default=[search_.name for search_ in SEARCHES])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    print(f"{machine()}; {args.trials} trials a study, {args.seeds} seeds", flush=True)
    heads = ["data", "searched for", "default", *SAMPLERS, "TPE's gain over random", *SAMPLERS]
    heads[-2:] = [f"test, {sampler}" for sampler in SAMPLERS]
    print(f"| {' | '.join(heads)} |\n| {' | '.join('---' for _ in heads)} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for search_ in SEARCHES:
            data = data_of(search_.name, args.root, Path(folder))
            if search_.name not in args.only:
                continue
            if data is None:
                print(f"{search_.name}: its data is not below --root", flush=True)
                continue
            outcomes: dict[str, list[Outcome]] = {sampler: [] for sampler in SAMPLERS}
            for seed in range(args.seeds):
                for sampler in SAMPLERS:
                    outcome = search(search_, data, sampler, seed, args.trials)
                    outcomes[sampler].append(outcome)
                    print(f"  {search_.name}, seed {seed}, {sampler}: {outcome}", flush=True)
            spent = sum(one.cpu_s for own in outcomes.values() for one in own)
            print(summary(search_, outcomes), flush=True)
            print(f"  {search_.name}: {spent / 60:.1f} min of CPU", flush=True)


if __name__ == "__main__":
    main()
