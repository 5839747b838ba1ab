"""Static int8 and training for int8, side by side on one float model, over seeds.

    python benchmarks/qat.py DATA_ROOT RUNS_DIR [--seeds 3] [--model mobilenet_v2] [--train "..."]

DATA_ROOT holds fashion_mnist. For each seed a float model is trained, made int8 in both ways, and all
three are measured on the 10,000 test images by `dlcli quantize`. Training for int8 learns the answers of
the float model alone (distillation), so what it gains over static is no longer training. A run that
RUNS_DIR has already is taken as it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

TRAIN = "--img-size 32 --no-pretrained --augment none --epochs 2 --batch-size 128"
TUNE = "--epochs 1 --device cpu"
MEASURE = "--split test --no-latency"


def dlcli(*arguments: str) -> dict[str, Any]:
    """What a command prints under --json."""
    argv = [sys.executable, "-m", "dlcli", *arguments, "--json", "--quiet"]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode not in (0, 3):  # 3: a bound that was missed, with its figures
        sys.exit(f"{' '.join(argv)}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(data: Path, runs: Path, model: str, seed: int, train: str, tune: str) -> dict[str, float]:
    """Accuracy of the float model and of both int8 ones, and how often they agree with it."""
    name = f"{model}-{seed}"
    if not (runs / name / "best.safetensors").is_file():
        options = [*train.split(), "--seed", str(seed), "--runs-dir", str(runs), "--name", name]
        where = ["--data", "fashion_mnist", "--data-dir", str(data)]
        dlcli("train", "--model", model, *where, "--device", "cpu", *options)
    static, tuned = (
        dlcli("quantize", str(runs / name), "--runs-dir", str(runs), *MEASURE.split(), *method.split())
        for method in ("--method static", f"--method qat {tune}")
    )
    return {
        "float": static["before"]["metrics"]["accuracy"],
        "static": static["after"]["metrics"]["accuracy"],
        "qat": tuned["after"]["metrics"]["accuracy"],
        "static agrees": static["agreement"],
        "qat agrees": tuned["agreement"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--train", default=TRAIN, help="options of the float model's training")
    parser.add_argument("--tune", default=TUNE, help="options of the training for int8")
    asked = parser.parse_args()
    rows = []
    for seed in range(asked.seeds):
        where = asked.data / "fashion_mnist"
        rows.append(row(where, asked.runs, asked.model, seed, asked.train, asked.tune))
        print(f"seed {seed}:", "  ".join(f"{k} {v:.4f}" for k, v in rows[-1].items()), flush=True)
    means = {key: statistics.mean(one[key] for one in rows) for key in rows[0]}
    print("mean:  ", "  ".join(f"{k} {v:.4f}" for k, v in means.items()))


if __name__ == "__main__":
    main()
