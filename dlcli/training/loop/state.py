"""The training state: everything a run needs to resume as if it had never stopped.

``state/step-N/`` holds tensors.safetensors, state.json and manifest.json (SHA-256 of both). A folder
is written under a temporary name and then renamed. Nothing is pickled.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import nn

from dlcli.errors import DlcliError
from dlcli.files import TMP_PREFIX, atomic_folder, read_json, sha256_file
from dlcli.formats.checkpoint import read_tensors, write_tensors
from dlcli.training.loop.determinism import RngState, restore_rng
from dlcli.training.loop.state_values import StateValues, parse_values, problems
from dlcli.training.optim.optimizer_state import load_entries, optimizer_kind, parameter_names
from dlcli.training.optim.schedule import Plateau
from dlcli.training.weight_averaging import WeightAverage
from dlcli.zoo.forward import load_tensors

STATE_SCHEMA = 2  # schema 1 had one process and no averages
# Fields of `Progress` whose keys in state.json are others, those of the first versions.
_STATE_KEYS = {
    "correct": "hits",
    "patience_best": "mark",
    "epochs_without_improvement": "stale_epochs",
    "best_epochs": "kept",
}
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_TENSORS, _VALUES, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass
class Progress:
    """The counters of a run. ``batch`` is the next one of ``epoch``; both count from 0.

    ``loss_sum``, ``loss_count`` (samples, or tokens), ``correct`` (predictions) and ``seen`` (samples)
    are sums over the epoch so far and all processes. ``micro`` is the largest micro-batch that fits into
    memory, None where it never ran out. ``skipped`` counts the steps whose gradient was not finite,
    ``bad_streak`` the consecutive last ones. ``patience_best`` is the best metric that counts for
    patience, ``patience_loss`` the loss of that epoch, ``epochs_without_improvement`` the epochs since.
    ``trained`` are the samples of all steps whose time ``phase_s`` has: seconds by `phases.PHASES`.
    ``best_epochs`` are the epochs of ``keep_best``, best first: (value, loss, epoch). ``reason`` is why
    a run ended before its last epoch: "patience", "steps", "time" or "".
    """

    step: _Count = 0
    epoch: _Count = 0
    batch: _Count = 0
    loss_sum: float = 0.0
    loss_count: float = 0.0
    correct: _Count = 0
    seen: _Count = 0
    best: float | None = None
    best_loss: float | None = None
    best_epoch: _Count = 0
    patience_best: float | None = None
    patience_loss: float | None = None
    epochs_without_improvement: _Count = 0
    elapsed_s: float = 0.0
    phase_s: dict[str, float] = field(default_factory=dict)
    trained: _Count = 0
    finished: bool = False
    reason: str = ""
    micro: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    skipped: _Count = 0
    bad_streak: _Count = 0
    plateau: Plateau = field(default_factory=Plateau)
    best_epochs: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def stopped_early(self) -> bool:
        """Whether patience ended the run."""
        return self.reason == "patience"

    @property
    def epochs_begun(self) -> int:
        """Epochs that were trained on, an unfinished one included."""
        return self.epoch + (self.batch > 0)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """Read what `to_dict` returned, also in older versions. Raises: ValidationError."""
        names = {key: name for name, key in _STATE_KEYS.items()}
        values = {names.get(key, key): value for key, value in values.items()}
        if values.pop("stopped_early", False):
            values["reason"] = "patience"
        values.setdefault("patience_best", values.get("best"))
        values.setdefault("patience_loss", values.get("best_loss"))
        return TypeAdapter(cls).validate_python(values)

    def to_dict(self) -> dict[str, Any]:
        """Return the counters for state.json."""
        return {_STATE_KEYS.get(name, name): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class TrainingState:
    """A state as read from disk."""

    path: Path
    progress: Progress
    tensors: dict[str, torch.Tensor]
    values: StateValues = field(repr=False)

    def restore(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        averages: Mapping[str, WeightAverage],
        rank: int = 0,
    ) -> bool:
        """Restore weights, averages, optimizer, scaler and this process's random generators.

        Returns whether the state holds generators for this rank: with more processes than before, some
        have none. Raises: DlcliError.
        """
        try:
            load_tensors(module, _with_prefix(self.tensors, "model/"))
            if self.same_optimizer(optimizer):
                load_entries(module, optimizer, self._optimizer_entries(module, optimizer))
            for name, average in averages.items():
                if name in self.values.averages:
                    average.load(
                        _with_prefix(self.tensors, f"average/{name}/"), self.values.averages[name]
                    )
                else:  # new in the resumed run, and built before the weights were restored
                    average.begin(module)
            if self.values.scaler:
                scaler.load_state_dict(self.values.scaler)
        except (RuntimeError, ValueError, KeyError, IndexError) as exc:
            raise DlcliError(f"{self.path} does not belong to this model: {exc}") from exc
        generators = self.values.generators
        if rank >= len(generators):
            return False
        try:
            tensors = _with_prefix(self.tensors, f"rng-{rank}/" if rank else "rng/")
            restore_rng(tensors, generators[rank].model_dump())
        except (RuntimeError, TypeError, ValueError, KeyError) as exc:  # of torch, for odd tensors
            raise DlcliError(f"{self.path} is damaged: its random generators: {exc}") from exc
        return True

    def same_optimizer(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether the state is of this kind of optimizer; True for old states without a kind."""
        saved = self.values.optimizer
        return saved is None or saved.kind == optimizer_kind(optimizer)

    def _optimizer_entries(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, dict[str, Any]]:
        """What the optimizer remembers, by parameter; states of 0.1 number these in its order."""
        saved = self.values.optimizer
        names = parameter_names(module, optimizer) if saved is None else saved.parameters
        entries: dict[str, dict[str, Any]] = {}
        for path, tensor in _with_prefix(self.tensors, "optim/").items():
            number, key = path.split("/")
            entries.setdefault(names[int(number)], {})[key] = tensor
        for index, values in self.values.optim.items():
            entries.setdefault(names[index], {}).update(values)
        return entries


def save_state(
    root: Path,
    *,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    averages: Mapping[str, WeightAverage],
    progress: Progress,
    generators: list[RngState],
    keep: int,
) -> Path:
    """Write ``root/step-N`` and then delete all but the newest ``keep``. Raises: DlcliError.

    ``generators`` are `capture_rng` of every process, by rank.
    """
    tensors = {f"model/{k}": v for k, v in module.state_dict().items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optim/{index}/{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    for name, average in averages.items():
        tensors |= {f"average/{name}/{k}": v for k, v in average.tensors().items()}
    for rank, (rng_tensors, _) in enumerate(generators):
        tensors |= {f"rng-{rank}/{k}" if rank else f"rng/{k}": v for k, v in rng_tensors.items()}
    values = {
        "schema": STATE_SCHEMA,
        "progress": progress.to_dict(),
        "optim": plain,
        "optimizer": {
            "kind": optimizer_kind(optimizer),
            "parameters": parameter_names(module, optimizer),
        },
        "scaler": scaler.state_dict(),
        "averages": {name: average.n for name, average in averages.items()},
        "rng": generators[0][1],
        "rng_of_others": [values for _, values in generators[1:]],
    }
    target = root / f"step-{progress.step}"
    _remove_leftovers(root)
    if target.exists():
        # Same step, but after validation: the older state is deleted once this one is complete.
        target = (
            root / f"step-{progress.step}.{1 + max(map(_revision, _state_folders(root)), default=0)}"
        )
    with atomic_folder(target) as tmp:
        write_tensors(tmp / _TENSORS, tensors, {})
        (tmp / _VALUES).write_text(json.dumps(values), encoding="utf-8")
        manifest = {name: sha256_file(tmp / name) for name in (_TENSORS, _VALUES)}
        (tmp / _MANIFEST).write_text(json.dumps({"sha256": manifest}), encoding="utf-8")
    for old in _state_folders(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_newest(root: Path) -> tuple[TrainingState | None, list[str]]:
    """The newest intact state, and a warning for each damaged one that was skipped.

    Raises: DlcliError when there are states and none is intact.
    """
    warnings: list[str] = []
    for folder in reversed(_state_folders(root)):
        try:
            return load_state(folder), warnings
        except DlcliError as exc:
            warnings.append(f"skipped a damaged training state: {exc.message}")
    if warnings:
        raise DlcliError(
            f"no training state in {root} is intact: {warnings[0]}",
            hint="the best model is a file of its own; start a new run from it with --weights",
        )
    return None, warnings


def load_state(folder: Path) -> TrainingState:
    """Read a state. Raises: DlcliError when it is damaged."""
    manifest = read_json(folder / _MANIFEST)
    digests = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(digests, dict):
        raise DlcliError(f"{folder / _MANIFEST} holds no SHA-256")
    for name in (_TENSORS, _VALUES):
        if not (folder / name).is_file():
            raise DlcliError(f"{folder / name} is missing")
        if sha256_file(folder / name) != digests.get(name):
            raise DlcliError(f"{folder / name} does not match its SHA-256")
    values = parse_values(folder / _VALUES, STATE_SCHEMA)
    try:
        progress = Progress.from_dict(values.progress)
    except ValidationError as exc:
        raise DlcliError(f"{folder / _VALUES} is damaged: {problems(exc)}") from exc
    tensors, _ = read_tensors(folder / _TENSORS)
    return TrainingState(folder, progress, tensors, values)


def _state_folders(root: Path) -> list[Path]:
    """The complete states, oldest first. Copies under other names, "step-9.bak", do not count."""
    if not root.is_dir():
        return []
    named = (p for p in root.glob("step-*") if re.fullmatch(r"step-[0-9]+(\.[0-9]+)?", p.name))
    complete = [p for p in named if (p / _MANIFEST).is_file()]
    return sorted(complete, key=lambda p: (int(p.name[5:].split(".")[0]), _revision(p)))


def _revision(folder: Path) -> int:
    _, _, revision = folder.name.partition(".")
    return int(revision or 0)


def _remove_leftovers(root: Path) -> None:
    """Delete temporary folders of a process that was killed while it saved; a run has one writer."""
    for leftover in root.glob(f"{TMP_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
