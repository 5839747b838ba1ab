"""How small and how fast `quantize` and `prune` make models, and what that costs them.

    python benchmarks/compression.py DATA_ROOT RUNS_DIR [--seeds 3] [--rows NAME,...] [--threads 1]

DATA_ROOT holds clothing_small, fashion_mnist and trec. A base run that RUNS_DIR lacks is trained first,
once a seed. Every figure is what the command itself prints under --json: both files loaded again,
measured on the test split, which chose nothing, and timed in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLOTHING = "clothing_small --model resnet18 --img-size 128 --epochs 10 --augment light --no-pretrained"
BASES = {
    "resnet18": CLOTHING,
    "cnn": "fashion_mnist --model cnn --epochs 3",
    "mlp": "fashion_mnist --model mlp --epochs 3",
    "lstm": "trec --model lstm",
    "lstm256": "trec --model lstm --set model.args.hidden=256",
    "transformer": "trec --model transformer",
}


@dataclass(frozen=True)
class Row:
    """A command on a base; ``bars`` are bounds of its figures, for people to compare with."""

    name: str
    base: str
    command: str
    bars: str


QUANTIZE = "quantize {run} --split test --method"
PRUNE = "prune {run} --split test --method channel --amount 0.5"
ROWS = (
    Row("resnet18 static", "resnet18", f"{QUANTIZE} static", "size .27, 3x, 3x, agreement .97"),
    Row("resnet18 qat", "resnet18", f"{QUANTIZE} qat", "no worse than static by half a point"),
    Row("cnn static", "cnn", f"{QUANTIZE} static", "1.5x"),
    Row("mlp dynamic", "mlp", f"{QUANTIZE} dynamic", "size .35, 1.5x, agreement .98"),
    Row("lstm dynamic", "lstm", f"{QUANTIZE} dynamic", "size .35, 1.5x, agreement .98"),
    Row(
        "transformer dynamic", "transformer", f"{QUANTIZE} dynamic", "size .35, 1.3x, 2x, agreement .98"
    ),
    Row("resnet18 half", "resnet18", PRUNE, "parameters .28, 2.3x, 2.7x, drop .02"),
    Row("cnn half", "cnn", PRUNE, "1.6x"),
    Row("lstm256 half", "lstm256", PRUNE, "1.6x at 32"),
)


def dlcli(*arguments: str) -> dict[str, Any]:
    """The JSON of a command; one whose bound was missed has it too."""
    done = subprocess.run(
        [sys.executable, "-m", "dlcli", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 3):
        raise SystemExit(f"dlcli {' '.join(arguments)} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def base_run(name: str, seed: int, data: Path, runs: Path) -> Path:
    """The run of a base, trained when it is not there yet."""
    run = runs / f"{name}-s{seed}"
    if not (run / "best.safetensors").is_file():
        folder, *options = BASES[name].split()
        where = ["--data", str(data / folder)]
        if folder == "fashion_mnist":
            where = ["--data", "fashion_mnist", "--data-dir", str(data / folder)]
        names = ["--name", run.name, "--runs-dir", str(runs), "--seed", str(seed)]
        dlcli("train", *where, *options, *names, "--quiet")
    return run


def figures(found: dict[str, Any]) -> dict[str, float]:
    """The figures of one command that the table shows."""
    before, after = found["before"], found["after"]
    metric = found["metric"]
    out = {
        "size": found["size_ratio"],
        "params": after["params"] / before["params"],
        "agreement": found["agreement"],
        "before": before["metrics"][metric],
        "difference": found["difference"],
    }
    return out | {f"x{size}": ratio["median"] for size, ratio in found["speedup"].items()}


def table_row(row: Row, seeds: list[dict[str, float]]) -> str:
    """One line of the table: mean over seeds, and the range where there are several."""

    def cell(name: str, show: Callable[[float], str]) -> str:
        values = [seed[name] for seed in seeds]
        text = show(statistics.mean(values))
        return text if len(values) == 1 else f"{text} ({show(min(values))} to {show(max(values))})"

    cells = [
        row.name,
        cell("size", "{:.3f}".format),
        cell("params", "{:.3f}".format),
        cell("x1", "{:.2f}".format),
        cell("x32", "{:.2f}".format),
        cell("agreement", "{:.4f}".format),
        cell("difference", "{:+.4f}".format),
        str(len(seeds)),
        row.bars,
    ]
    return f"| {' | '.join(cells)} |"


def chain(run: Path, pruned: Path, threads: list[str]) -> str:
    """Prune, then quantize: the int8 file beside the float model in torch, both timed and evaluated."""
    small = dlcli("quantize", str(pruned), "--method", "static", "--split", "test", *threads)["output"]
    found = dlcli("benchmark", str(run / "best.safetensors"), small, "--batch-sizes", "1,32", *threads)
    before, after = (dlcli("eval", path)["metrics"]["accuracy"] for path in (str(run), small))
    first, last = found["rows"]
    return (
        f"{Path(small).stat().st_size / 1e6:.2f} MB, accuracy {before:.4f} -> {after:.4f}, "
        f"speed-up {json.dumps(last['speedup'])}, beside {first['artifact']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default="")
    parser.add_argument("--threads", type=int, default=None)
    asked = parser.parse_args()
    threads = [] if asked.threads is None else ["--threads", str(asked.threads)]
    wanted = [name for name in asked.rows.split(",") if name]
    print("| what | size | parameters | speed at 1 | at 32 | agreement | difference | n | bars |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in ROWS:
        if wanted and row.name not in wanted:
            continue
        found = []
        for seed in range(asked.seeds):
            run = base_run(row.base, seed, asked.data, asked.runs)
            where = ["--runs-dir", str(asked.runs), *threads]
            result = dlcli(*row.command.format(run=run).split(), *where, "--quiet")
            found.append(figures(result))
            if row.name == "resnet18 half":
                print(f"chain, seed {seed}: {chain(run, Path(result['run']), threads)}", file=sys.stderr)
        print(table_row(row, found), flush=True)


if __name__ == "__main__":
    main()
