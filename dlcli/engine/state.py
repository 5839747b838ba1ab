"""The training state: everything a run needs to go on as if it had never stopped.

``state/step-N/`` holds tensors.safetensors, state.json and manifest.json (SHA-256 of both). A folder
is completed under a temporary name and renamed as a whole. Nothing is pickled.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dlcli.errors import DlcliError
from dlcli.files import TMP_PREFIX, atomic_folder, read_json, sha256_file
from dlcli.formats.checkpoint import read_tensors, write_tensors
from dlcli.zoo.runtime import load_tensors

STATE_SCHEMA = 1
_TENSORS, _VALUES, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass
class Progress:
    """The counters of a run. ``batch`` is the next one of ``epoch``; both count from 0.

    ``loss_sum``, ``loss_count`` (samples, or tokens), ``hits`` and ``seen`` are sums over the samples of
    the epoch so far.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    loss_count: float = 0.0
    hits: int = 0
    seen: int = 0
    best: float | None = None
    best_loss: float | None = None
    best_epoch: int = 0
    stale_epochs: int = 0
    elapsed_s: float = 0.0
    finished: bool = False
    stopped_early: bool = False


@dataclass(frozen=True)
class TrainingState:
    """A state read back from disk."""

    path: Path
    progress: Progress
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any] = field(repr=False)

    def restore(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> None:
        """Put weights, optimizer, scaler and every random generator back. Raises: DlcliError."""
        try:
            load_tensors(module, _below(self.tensors, "model/"))
            optimizer.load_state_dict(self._optimizer_state(optimizer))
        except (RuntimeError, ValueError, KeyError, IndexError) as exc:
            raise DlcliError(f"{self.path} does not belong to this model: {exc}") from exc
        if self.values["scaler"]:
            scaler.load_state_dict(self.values["scaler"])
        _restore_rng(self.tensors, self.values["rng"])

    def _optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state: dict[int, dict[str, Any]] = {}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for name, tensor in _below(self.tensors, "optim/").items():
            index, key = name.split("/")
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:
                # Fused optimizers walk memory: the moments need their parameter's strides.
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
        for index_text, values in self.values["optim"].items():
            state.setdefault(int(index_text), {}).update(values)
        # The groups' settings come from the run's own configuration, not from the file.
        return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


def save_state(
    root: Path,
    *,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    keep: int,
) -> Path:
    """Write ``root/step-N`` and then delete all but the newest ``keep``. Raises: DlcliError."""
    tensors = {f"model/{k}": v for k, v in module.state_dict().items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optim/{index}/{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    rng_tensors, rng_values = _capture_rng()
    values = {
        "schema": STATE_SCHEMA,
        "progress": asdict(progress),
        "optim": plain,
        "scaler": scaler.state_dict(),
        "rng": rng_values,
    }
    target = root / f"step-{progress.step}"
    _remove_leftovers(root)
    if target.exists():
        # Same step, later position (validation done): the older one makes room once this is whole.
        target = root / f"step-{progress.step}.{1 + max(map(_revision, _folders(root)), default=0)}"
    with atomic_folder(target) as tmp:
        write_tensors(tmp / _TENSORS, tensors | rng_tensors, {})
        (tmp / _VALUES).write_text(json.dumps(values), encoding="utf-8")
        manifest = {name: sha256_file(tmp / name) for name in (_TENSORS, _VALUES)}
        (tmp / _MANIFEST).write_text(json.dumps({"sha256": manifest}), encoding="utf-8")
    for old in _folders(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_newest(root: Path) -> tuple[TrainingState | None, list[str]]:
    """The newest whole state, and a sentence for each damaged one that was passed over.

    Raises: DlcliError when there are states and none of them is whole.
    """
    warnings: list[str] = []
    for folder in reversed(_folders(root)):
        try:
            return _load(folder), warnings
        except DlcliError as exc:
            warnings.append(f"passed over a damaged training state: {exc.message}")
    if warnings:
        raise DlcliError(
            f"no training state in {root} is whole: {warnings[0]}",
            hint="the best model is a file of its own; start a new run from it with --weights",
        )
    return None, warnings


def _load(folder: Path) -> TrainingState:
    manifest = read_json(folder / _MANIFEST)
    digests = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(digests, dict):
        raise DlcliError(f"{folder / _MANIFEST} holds no SHA-256")
    for name in (_TENSORS, _VALUES):
        if not (folder / name).is_file():
            raise DlcliError(f"{folder / name} is missing")
        if sha256_file(folder / name) != digests.get(name):
            raise DlcliError(f"{folder / name} does not match its SHA-256")
    values = read_json(folder / _VALUES)
    if values["schema"] != STATE_SCHEMA:
        raise DlcliError(f"{folder} has schema {values['schema']}, this dlcli reads {STATE_SCHEMA}")
    tensors, _ = read_tensors(folder / _TENSORS)
    return TrainingState(folder, Progress(**values["progress"]), tensors, values)


def _folders(root: Path) -> list[Path]:
    """The complete states, oldest first. Copies under other names, "step-9.bak", are no states."""
    if not root.is_dir():
        return []
    named = (p for p in root.glob("step-*") if re.fullmatch(r"step-[0-9]+(\.[0-9]+)?", p.name))
    found = [p for p in named if (p / _MANIFEST).is_file()]
    return sorted(found, key=lambda p: (int(p.name[5:].split(".")[0]), _revision(p)))


def _revision(folder: Path) -> int:
    _, _, revision = folder.name.partition(".")
    return int(revision or 0)


def _remove_leftovers(root: Path) -> None:
    """Temporary folders of a process that was killed while it saved; a run has one writer."""
    for leftover in root.glob(f"{TMP_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _cuda_generators() -> Iterator[int]:
    yield from range(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def _capture_rng() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state of every generator that a layer or a library may draw from."""
    tensors = {"rng/torch": torch.get_rng_state()}
    for index in _cuda_generators():
        tensors[f"rng/cuda/{index}"] = torch.cuda.get_rng_state(index)
    if torch.backends.mps.is_available():
        tensors["rng/mps"] = torch.mps.get_rng_state()
    version, words, gauss = random.getstate()
    legacy: dict[str, Any] = np.random.get_state(legacy=False)
    return tensors, {
        "python": [version, list(words), gauss],
        "numpy": {
            "key": legacy["state"]["key"].tolist(),
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
    }


def _restore_rng(tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["rng/torch"])
    for index in _cuda_generators():
        if f"rng/cuda/{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"rng/cuda/{index}"], index)
    if "rng/mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["rng/mps"])
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
    mt = values["numpy"]
    np.random.set_state(
        ("MT19937", np.array(mt["key"], dtype=np.uint32), mt["pos"], mt["has_gauss"], mt["gauss"])
    )
