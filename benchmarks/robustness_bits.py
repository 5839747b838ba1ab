"""One bit flipped in each kind of file that dlcli writes: whether the command that reads it says so."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from forked import command

from dlcli.config.train import TrainConfig

TRAIN = (
    *(
        "train",
        "--model",
        "cnn",
        "--data",
        "digits",
        "--name",
        "run",
        "--epochs",
        "2",
        "--device",
        "cpu",
    ),
    *("--set", "model.args={widths: [8]}", "-q"),
)
FORMATS = ("onnx", "torchscript", "pt2", "aoti", "pth", "plain-safetensors", "openvino")


def measure(folder: Path, trials: int, rng: random.Random) -> dict[str, Any]:
    """Flip a random bit of each file ``trials`` times (of states and run files, a fifth as often).

    `info` reads the models, `train --resume` the files of the run. A flip that leaves the same JSON or
    YAML values, in blanks or comments, is counted apart.
    """
    log = folder / "log"
    code, printed = command(TRAIN, folder, log)
    assert code == 0, printed
    run = folder / "runs" / "run"
    skipped = _make_models(folder, log)
    counts: dict[str, dict[str, int]] = {}
    failures: list[str] = []
    for path in sorted(run.iterdir()):
        if path.name.endswith((".safetensors", ".pth", ".pt2", ".onnx", ".torchscript", ".xml", ".bin")):
            shown = path.with_suffix(".xml") if path.suffix == ".bin" else path
            counts[path.name] = _flip(path, ["info", str(shown)], trials, rng, folder, log, failures)
    few = max(1, trials // 5)
    state = max((run / "state").iterdir(), key=lambda path: path.stat().st_mtime)
    for other in run.glob("state/step-*"):
        if other != state:
            shutil.rmtree(other)  # else the state before is used, with a warning
    for path in sorted(state.iterdir()):
        more = ["train", "--resume", "run", "--epochs", "3", "-q"]
        counts[f"state/{path.name}"] = _flip(path, more, few, rng, folder, log, failures)
    for name in ("config.yaml", "run.json", "splits.json"):
        argv = ["train", "--resume", "run", "-q"]
        counts[name] = _flip(run / name, argv, trials, rng, folder, log, failures)
    total = {
        key: sum(row[key] for row in counts.values()) for key in ("flips", "noticed", "same values")
    }
    return {**total, "files": counts, "not written here": skipped, "failures": failures}


def _make_models(folder: Path, log: Path) -> list[str]:
    """Export, quantize and prune the run's model; returns the formats that cannot be written here."""
    skipped = []
    for name in FORMATS:
        code, _ = command(["export", "run", "--format", name, "-q"], folder, log)
        if code:
            skipped.append(name)
    command(["quantize", "run", "--method", "static", "-q"], folder, log)
    command(["quantize", "run", "--method", "weight-only", "-q"], folder, log)
    command(["prune", "run", "--method", "l1", "--amount", "0.8", "--epochs", "0", "-q"], folder, log)
    for pruned in folder.glob("runs/*/best.safetensors"):
        if pruned.parent.name != "run":
            shutil.copy(pruned, folder / "runs" / "run" / "best.sparse.safetensors")
    return skipped


def _flip(
    path: Path,
    argv: Sequence[str],
    trials: int,
    rng: random.Random,
    folder: Path,
    log: Path,
    failures: list[str],
) -> dict[str, int]:
    data = path.read_bytes()
    counts = {"flips": 0, "noticed": 0, "same values": 0}
    for _ in range(trials):
        counts["flips"] += 1
        changed = bytearray(data)
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        changed[at] ^= 1 << bit
        path.write_bytes(changed)
        if path.suffix in (".json", ".yaml") and _values(path, bytes(changed)) == _values(path, data):
            counts["same values"] += 1
            continue
        code, printed = command(argv, folder, log)
        if code in (1, 2):
            counts["noticed"] += 1
        else:
            failures.append(f"{path.name}, bit {bit} of byte {at}: exit {code}: {printed[-200:]}")
            path.write_bytes(data)
            if code == 0 and argv[0] == "train":
                break  # the run was trained on and is another one now
    path.write_bytes(data)
    return counts


def _values(path: Path, data: bytes) -> object:
    """The values of a JSON file, the settings of a YAML file (`faLse` is false); else its bytes."""
    try:
        if path.suffix == ".json":
            return json.loads(data)
        return TrainConfig.model_validate(yaml.safe_load(data))
    except (ValueError, yaml.YAMLError):
        return data
