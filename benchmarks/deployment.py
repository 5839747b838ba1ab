"""Which promise of the tutorials holds: five models in every format, timed in turns.

    python benchmarks/deployment.py RUNS_DIR [--train DATA_ROOT] [--models resnet18,cnn] [--threads 1]

RUNS_DIR holds a run of each model, named as by compression.py (resnet18-s0, cnn-s0, ...); those it lacks
are trained with --train, from a DATA_ROOT with clothing_small, fashion_mnist and trec. Each is exported
and quantized by the command line, then all its files are benchmarked together. Prints the two Markdown
tables of docs/benchmarks.md, medians side by side and every figure with its range. A file is compared
with its model in eager PyTorch: that is what the promises are about.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common import machine
from compression import BASES, base_run

MODELS = ("resnet18", "cnn", "mlp", "lstm", "transformer")
FORMATS = ("torchscript", "pt2", "aoti", "onnx", "openvino")
METHOD = {"resnet18": "static", "cnn": "static"}  # the others: dynamic
RUNTIMES = ("onnxruntime", "openvino")
LEAST_SAVED = 0.74  # of the size, where 75 % is promised: scales and the card are not counted


@dataclass(frozen=True)
class Promise:
    """Times as fast as eager PyTorch, and the share of the size that is saved."""

    text: str
    low: float
    high: float
    saved: float = 0.0


PROMISES = {
    "torchscript": Promise("1.2-1.5x", 1.2, 1.5),
    "onnx": Promise("2-3x", 2.0, 3.0),
    "int8-dynamic": Promise("2-3x, -75 % size", 2.0, 3.0, LEAST_SAVED),
}
ORDER = ("eager", *FORMATS, "int8-dynamic", "int8-static")
SMALLER = 0.9  # of the eager file's size: a saving worth a word
NOT_HERE = "TensorRT (3-5x) needs an NVIDIA GPU and was not measured."


def dlcli(*arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any] | str:
    """The JSON of a command, or the last thing it said where it left with another code."""
    done = subprocess.run(
        [sys.executable, "-m", "dlcli", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in codes or not done.stdout.strip():
        said = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
        return "; ".join(said) or f"exit code {done.returncode}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def prepare(run: Path, model: str) -> list[str]:
    """Export and quantize what the run lacks; what could not be, with the reason."""
    missing = []
    for name in FORMATS:
        found = dlcli("export", str(run), "--format", name, "--no-latency")
        if isinstance(found, str):
            missing.append(f"{model}, {name}: {found}")
    method = METHOD.get(model, "dynamic")
    found = dlcli("quantize", str(run), "--method", method, "--no-latency", codes=(0, 3))
    if isinstance(found, str):
        missing.append(f"{model}, int8 {method}: {found}")
    return missing


def kind(row: dict[str, Any]) -> str:
    """The format of a row; a quantized file goes by its method: best.int8-dynamic.onnx."""
    parts = Path(row["artifact"]).name.split(".")
    return next((part for part in parts if part.startswith("int8")), row["format"])


def verdict(promise: Promise | None, ratios: dict[str, dict[str, Any]], saved: float) -> str:
    """Whether the promise holds: yes only where the whole range of the rounds does."""
    if promise is None:
        return ""
    good = [size for size, ratio in ratios.items() if ratio["low"] >= promise.low]
    more = [size for size in good if ratios[size]["low"] > promise.high]
    if any(ratio.get("doubt") for ratio in ratios.values()):
        said = "not known"
    elif not good:
        below = all(ratio["high"] < promise.low for ratio in ratios.values())
        said = "no" if below else "not shown"
    elif len(good) < len(ratios):
        said = f"at batch {', '.join(good)} only"
    else:
        said = "yes" + (f", more at batch {', '.join(more)}" if more else "")
    if promise.saved and saved < promise.saved:
        said += "; not the size"
    return said


def lines(model: str, found: dict[str, Any]) -> list[str]:
    """The table's lines of one model, the eager one first."""
    first = found["rows"][0]
    out = []
    for number, row in enumerate(found["rows"]):
        name = kind(row)
        if row["error"] is not None:
            out.append(f"| {model} | {name} | failed: {row['error']} | | | | | | |")
            continue
        saved = 1 - row["size_bytes"] / first["size_bytes"]
        speeds = [
            f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
            if number
            else f"{row['latency_ms'][size]:.3g} ms"
            for size, ratio in row["speedup"].items()
        ]
        promise = PROMISES.get(name)
        value = row["metrics"].get(row["metric"], float("nan"))
        same = "" if row["agreement"] is None else f"{row['agreement']:.2%}"
        cells = [
            model,
            f"{name}, eager" if number == 0 else name,
            f"{row['size_bytes'] / 1e6:.3g} MB",
            f"{value:.4f}",
            same,
            *speeds,
            "" if promise is None else promise.text,
            verdict(promise, row["speedup"], saved) if number else "",
        ]
        out.append(f"| {' | '.join(cells)} |")
    return out


def side_by_side(found: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each kind of file, a column for each model: medians at both batch sizes."""
    kinds: dict[str, dict[str, str]] = {}
    for model, result in found.items():
        first = result["rows"][0]
        for number, row in enumerate(result["rows"]):
            name = "eager" if number == 0 else kind(row)
            if row["error"] is not None:
                said = "failed"
            elif number == 0:
                said = " / ".join(f"{row['latency_ms'][size]:.3g}" for size in row["latency_ms"]) + " ms"
            else:
                said = " / ".join(f"{ratio['median']:.2f}" for ratio in row["speedup"].values())
            if row["error"] is None and row["size_bytes"] < SMALLER * first["size_bytes"]:
                said += f", {row['size_bytes'] / first['size_bytes'] - 1:+.0%} size"
            kinds.setdefault(name, {})[model] = said
    out = [f"| file | promised | {' | '.join(found)} |", f"| {' | '.join(['---'] * (len(found) + 2))} |"]
    for name in ORDER:
        if name in kinds:
            promise = PROMISES.get(name)
            cells = [name, "" if promise is None else promise.text]
            cells += [kinds[name].get(model, "") for model in found]
            out.append(f"| {' | '.join(cells)} |")
    return out


def versions() -> str:
    """Of the runtimes that are there."""
    found = []
    for name in RUNTIMES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--train", type=Path, metavar="DATA_ROOT")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", default="1")
    parser.add_argument("--seconds", default="3")
    parser.add_argument("--rounds", default="7")
    args = parser.parse_args()
    table, missing, busy = [], [], []
    measured: dict[str, dict[str, Any]] = {}
    for model in args.models.split(","):
        assert model in BASES, f"{model} is none of {', '.join(BASES)}"
        run = args.runs / f"{model}-s0"
        if args.train is not None:
            run = base_run(model, 0, args.train, args.runs)
        missing += prepare(run, model)
        timing = ["--threads", args.threads, "--seconds", args.seconds, "--rounds", args.rounds]
        found = dlcli("benchmark", str(run), "--batch-sizes", "1,32", *timing, codes=(0, 1))
        if isinstance(found, str):
            raise SystemExit(f"{model}: {found}")
        busy.append(found["busy_cores"])
        measured[model] = found
        table += lines(model, found)
        print(*lines(model, found), sep="\n", file=sys.stderr, flush=True)
    print(*side_by_side(measured), sep="\n", end="\n\n")
    print("| model | file | size | metric | agreement | batch 1 | batch 32 | promised | holds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    print(*table, sep="\n")
    print(
        f"\nTimes as fast as eager PyTorch: median and range over {args.rounds} paired rounds, "
        f"{args.threads} thread(s). {NOT_HERE}\n{machine()}, {versions()}; other programs used up to "
        f"{max(busy):.1f} cores"
    )
    for reason in missing:
        print(f"not made: {reason}")


if __name__ == "__main__":
    main()
