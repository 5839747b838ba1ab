"""How many true values of test the intervals of ``eval --intervals`` contain.

    python benchmarks/interval_coverage.py DATA_ROOT [--diamonds FILE] [--coverage 90%] [--only NAME ...]

DATA_ROOT holds california_housing and ett, as their publishers give them; `diabetes` comes with
scikit-learn, and FILE is diamonds.csv of the package plotnine (plotnine/data/diamonds.csv, 53,940 rows:
`pip download --no-deps plotnine`), whose target is the price. Each model is trained with its defaults,
but for the epochs where a table is large, once for each seed, which divides tables anew; a forecast's
split is in time, and a seed changes the first weights alone. Prints the share of the true values of test
that the intervals contain: mean over the seeds and range, and twice the standard error of the mean.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import machine

import dlcli

ETT = {"window": 96}
TIME_SPLITS = {"time_splits": [8640, 2880, 2880]}  # those of the literature


@dataclass(frozen=True)
class Row:
    """What is trained on what, and with how many seeds."""

    name: str
    data: str
    seeds: int
    model: str
    options: dict[str, Any] = field(default_factory=dict)


ROWS = (
    Row(
        "california",
        "california_housing/housing.csv",
        5,
        "mlp",
        {"target": "median_house_value", "epochs": 5},
    ),
    Row("diabetes", "diabetes", 40, "mlp"),
    Row("diamonds", "", 5, "mlp", {"target": "price", "epochs": 2}),
    Row("etth1-24", "ett/ETTh1.csv", 2, "linear", {**ETT, "horizon": 24}),
    Row("etth1-96", "ett/ETTh1.csv", 2, "linear", {**ETT, "horizon": 96}),
)


def measure(row: Row, data: str, coverage: str) -> str:
    """The line of one row."""
    shares, by_target, val = [], [], 0
    with tempfile.TemporaryDirectory() as runs:
        for seed in range(row.seeds):
            name = f"run-{seed}"
            own = {"data": data, **(TIME_SPLITS if "horizon" in row.options else {})}
            run = dlcli.train(
                model=row.model, data=own, seed=seed, runs_dir=runs, name=name, **row.options
            )
            result = dlcli.evaluate(run.load(), split="test", intervals=coverage)
            shares.append(statistics.mean(one.covered for one in result.intervals))
            by_target.append([one.covered for one in result.intervals])
            val = result.intervals[0].val_samples
            print(f"  {row.name}, seed {seed}: {shares[-1]:.4f}", flush=True)
    error = 2 * statistics.stdev(shares) / len(shares) ** 0.5
    line = f"{statistics.mean(shares):.3f} ({min(shares):.3f} to {max(shares):.3f}, n={len(shares)})"
    channels = [statistics.mean(each) for each in zip(*by_target, strict=True)]
    several = f"; by target {' '.join(f'{one:.3f}' for one in channels)}" if len(channels) > 1 else ""
    return (
        f"| {row.name} | {row.model} | {val:,} val | {line} | +- {error:.3f} | "
        f"test {result.samples:,}{several} |"
    )


def main() -> None:
    """Measure the rows whose data there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--diamonds", type=Path)
    parser.add_argument("--coverage", default="90%")
    parser.add_argument("--only", nargs="*", default=[row.name for row in ROWS])
    options = parser.parse_args()
    print(machine())
    for row in ROWS:
        data = options.root / row.data if row.name != "diamonds" else options.diamonds
        if row.name == "diabetes":
            data = "diabetes"
        if row.name not in options.only:
            continue
        if data is None or not (data == "diabetes" or data.exists()):
            print(f"{row.name}: no data")
            continue
        print(measure(row, str(data), options.coverage), flush=True)


if __name__ == "__main__":
    main()
