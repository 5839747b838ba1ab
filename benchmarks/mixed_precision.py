"""What mixed precision, gradient checkpointing and torch.compile gain: time and memory of a step.

    python benchmarks/mixed_precision.py [--device cuda] [--rounds 5] [--steps 30] [--small]

resnet50 on images of 224x224 and a transformer encoder of 12 layers on texts of 256 words, each as plain
float32, with --amp bf16 and fp16, with --grad-checkpointing auto, with --compile default, and bf16 with
compile. Every variant is a real dlcli job and its own optimizer step; the rounds are interleaved.
``--small`` shrinks models, inputs and batches, so that the program itself can be tried without a GPU;
there fp16 is left out and no memory is shown.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import interleave, machine, ratios, spread

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError
from dlcli.events import ignore
from dlcli.runs.folder import RunFolder
from dlcli.settings import merge, validate
from dlcli.training.build_job import make_job
from dlcli.training.distributed.world import ALONE
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import optimizer_step
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan
from dlcli.training.readers import make_readers

VARIANTS: dict[str, dict[str, object]] = {
    "fp32": {"amp": "none"},
    "bf16": {"amp": "bf16"},
    "fp16": {"amp": "fp16"},
    "checkpointing": {"amp": "none", "grad_checkpointing": "auto"},
    "compile": {"amp": "none", "compile": "default"},
    "bf16 + compile": {"amp": "bf16", "compile": "default"},
}


def settings(small: bool, texts: Path) -> dict[str, dict[str, object]]:
    """The two models on their data, as settings of `train`."""
    large = {"dim": 768, "ff": 3072, "heads": 12, "layers": 12}
    return {
        "resnet18" if small else "resnet50": {
            "model": {
                "name": "resnet18" if small else "resnet50",
                "pretrained": False,
                "img_size": 64 if small else 224,
            },
            "data": {"data": "digits"},
            "augment": {"level": "none"},
        },
        "transformer": {
            "model": {"name": "transformer", "args": {} if small else large},
            "data": {"data": str(texts)},
        },
    }


def write_texts(path: Path, words: int) -> None:
    """Texts of random words, of one length, in two classes."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(600):
            rows.writerow([" ".join(f"w{i}" for i in rng.integers(0, 500, words)), "ab"[number % 2]])


class Variant:
    """One job that takes the same batch again and again."""

    def __init__(self, plan: Plan, device: torch.device, folder: Path) -> None:
        module, *_ = plan.build()
        self.job = make_job(
            plan, RunFolder(folder), module, None, make_readers(plan, ALONE), device, ignore, ALONE
        ).job
        self.batch = next(self.job.batches.epoch(0))
        self.device = device
        self.peak_mib = 0.0

    def seconds(self, steps: int) -> float:
        """Seconds a step."""
        set_train_mode(self.job.model.module)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.synchronize(self.device)
        t0 = time.perf_counter()
        for _ in range(steps):
            optimizer_step(self.job, self.batch, self.batch.count)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak_mib = torch.cuda.max_memory_allocated(self.device) / 2**20
        return (time.perf_counter() - t0) / steps


def peak_alone(make: Callable[[], Variant], steps: int) -> float:
    """Peak device memory of a variant while no other lives, in MiB."""
    variant = make()
    variant.seconds(steps)
    return variant.peak_mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    print(machine(), torch.cuda.get_device_name(device) if device.type == "cuda" else "", flush=True)
    with tempfile.TemporaryDirectory() as root:
        texts = Path(root) / "texts.csv"
        write_texts(texts, 32 if args.small else 256)
        for name, said in settings(args.small, texts).items():
            measure(name, said, device, Path(root), args)


def measure(
    name: str, said: dict[str, object], device: torch.device, root: Path, args: argparse.Namespace
) -> None:
    """The table of one model."""

    def make(variant: str) -> Variant:
        fit = {
            "device": args.device,
            "batch_size": 16 if args.small else args.batch_size,
            **VARIANTS[variant],
        }
        plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, said, {"fit": fit})))
        return Variant(plan, device, root)

    peaks, variants = {}, {}
    for variant in VARIANTS:
        try:
            peaks[variant] = peak_alone(lambda variant=variant: make(variant), 3)
            variants[variant] = make(variant)
            variants[variant].seconds(3)  # compiles, and warms up
        except DlcliError as exc:
            print(f"{name} {variant}: left out: {exc.message}", flush=True)
    runs = {v: (lambda v=v: variants[v].seconds(args.steps)) for v in variants}
    found = interleave(runs, args.rounds)
    for variant, values in found.items():
        memory = f", {peaks[variant]:.0f} MiB" if peaks[variant] else ""
        speed = ratios(found["fp32"], values)
        print(f"{name} {variant}: {spread([1e3 * t for t in values])} ms a step, {speed} x fp32{memory}")


if __name__ == "__main__":
    main()
