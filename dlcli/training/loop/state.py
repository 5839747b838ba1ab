"""The training state: everything a run needs to go on as if it had never stopped.

``state/step-N/`` holds tensors.safetensors, state.json and manifest.json (SHA-256 of both). A folder
is completed under a temporary name and renamed as a whole. Nothing is pickled.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlcli.errors import DlcliError
from dlcli.files import TMP_PREFIX, atomic_folder, read_json, sha256_file
from dlcli.formats.checkpoint import read_tensors, write_tensors
from dlcli.training.loop.determinism import RngState, restore_rng
from dlcli.training.optim.schedule import Plateau
from dlcli.training.weight_averaging import WeightAverage
from dlcli.zoo.forward import load_tensors

STATE_SCHEMA = 2  # 1 had one process, and no averages
_TENSORS, _VALUES, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass
class Progress:
    """The counters of a run. ``batch`` is the next one of ``epoch``; both count from 0.

    ``loss_sum``, ``loss_count`` (samples, or tokens), ``hits`` and ``seen`` are sums over the samples of
    the epoch so far, of all processes. ``micro`` is the largest micro-batch that fits a device, None
    where memory never ran out. ``skipped`` counts the steps whose gradient was no finite number,
    ``bad_streak`` the last ones without a break. ``mark`` is the best metric as patience sees it.
    ``kept`` are the epochs whose models are kept, best first: value, loss, epoch. ``reason`` says why a
    run ended before its last epoch: "patience", "steps", "time" or "".
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
    mark: float | None = None
    stale_epochs: int = 0
    elapsed_s: float = 0.0
    finished: bool = False
    reason: str = ""
    micro: int | None = None
    skipped: int = 0
    bad_streak: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    kept: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def stopped_early(self) -> bool:
        """Whether patience ended the run."""
        return self.reason == "patience"

    @property
    def epochs_begun(self) -> int:
        """Epochs that were trained on, also one that was not gone through whole."""
        return self.epoch + (self.batch > 0)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """From `asdict`, also that of an older dlcli."""
        values = dict(values)
        if values.pop("stopped_early", False):
            values["reason"] = "patience"
        values.setdefault("mark", values.get("best"))
        values["plateau"] = Plateau(**values.get("plateau", {}))
        values["kept"] = [tuple(kept) for kept in values.get("kept", [])]
        return cls(**values)


@dataclass(frozen=True)
class TrainingState:
    """A state read back from disk."""

    path: Path
    progress: Progress
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any] = field(repr=False)

    def restore(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        averages: Mapping[str, WeightAverage],
        rank: int = 0,
    ) -> bool:
        """Put weights, averages, optimizer, scaler and the process's random generators back.

        Whether the state holds generators for this rank: a run that goes on with more processes than it
        was saved with has some that begin anew. Raises: DlcliError.
        """
        try:
            load_tensors(module, _below(self.tensors, "model/"))
            if self.same_optimizer(optimizer):
                optimizer.load_state_dict(self._optimizer_state(module, optimizer))
            for name, average in averages.items():
                if name in self.values.get("averages", {}):
                    average.load(_below(self.tensors, f"average/{name}/"), self.values["averages"][name])
                else:  # asked for since; it was made before the weights were there
                    average.begin(module)
        except (RuntimeError, ValueError, KeyError, IndexError) as exc:
            raise DlcliError(f"{self.path} does not belong to this model: {exc}") from exc
        if self.values["scaler"]:
            scaler.load_state_dict(self.values["scaler"])
        # The first process's generators stand where they stood when there was only one.
        everyone = [self.values["rng"], *self.values.get("rng_of_others", [])]
        if rank >= len(everyone):
            return False
        restore_rng(_below(self.tensors, f"rng-{rank}/" if rank else "rng/"), everyone[rank])
        return True

    def same_optimizer(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the state is of such an optimizer, as far as it says: older ones do not."""
        known = self.values.get("optimizer")
        return known is None or known["kind"] == _kind_of(optimizer)

    def _optimizer_state(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state: dict[int, dict[str, Any]] = {}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        places = dict(enumerate(range(len(parameters))))  # as saved: as now
        if "optimizer" in self.values:  # groups are sorted by rates, which may be other ones now
            now = {name: at for at, name in enumerate(_parameter_names(module, optimizer))}
            saved = self.values["optimizer"]["parameters"]
            places = {at: now[name] for at, name in enumerate(saved) if name in now}
        for name, tensor in _below(self.tensors, "optim/").items():
            index, key = name.split("/")
            if int(index) in places:
                parameter = parameters[places[int(index)]]
                if tensor.shape == parameter.shape:
                    # Fused optimizers walk memory: the moments need their parameter's strides.
                    tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
                state.setdefault(places[int(index)], {})[key] = tensor
        for index_text, values in self.values["optim"].items():
            if int(index_text) in places:
                state.setdefault(places[int(index_text)], {}).update(values)
        # The groups' settings come from the run's own configuration, not from the file.
        return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


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
    for rank, (found, _) in enumerate(generators):
        tensors |= {f"rng-{rank}/{k}" if rank else f"rng/{k}": v for k, v in found.items()}
    values = {
        "schema": STATE_SCHEMA,
        "progress": asdict(progress),
        "optim": plain,
        "optimizer": {
            "kind": _kind_of(optimizer),
            "parameters": _parameter_names(module, optimizer),
        },
        "scaler": scaler.state_dict(),
        "averages": {name: average.n for name, average in averages.items()},
        "rng": generators[0][1],
        "rng_of_others": [values for _, values in generators[1:]],
    }
    target = root / f"step-{progress.step}"
    _remove_leftovers(root)
    if target.exists():
        # Same step, later position (validation done): the older one makes room once this is whole.
        target = root / f"step-{progress.step}.{1 + max(map(_revision, _folders(root)), default=0)}"
    with atomic_folder(target) as tmp:
        write_tensors(tmp / _TENSORS, tensors, {})
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
            return load_state(folder), warnings
        except DlcliError as exc:
            warnings.append(f"passed over a damaged training state: {exc.message}")
    if warnings:
        raise DlcliError(
            f"no training state in {root} is whole: {warnings[0]}",
            hint="the best model is a file of its own; start a new run from it with --weights",
        )
    return None, warnings


def load_state(folder: Path) -> TrainingState:
    """A state read back. Raises: DlcliError when it is not whole."""
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
    if values["schema"] not in range(1, STATE_SCHEMA + 1):
        raise DlcliError(
            f"{folder} has schema {values['schema']}, this dlcli reads 1 to {STATE_SCHEMA}",
            hint="it was written by a newer dlcli: install that one",
        )
    tensors, _ = read_tensors(folder / _TENSORS)
    return TrainingState(folder, Progress.from_dict(values["progress"]), tensors, values)


def _kind_of(optimizer: torch.optim.Optimizer) -> str:
    """What decides which tensors an optimizer keeps of a parameter."""
    momentum = any(group.get("momentum") for group in optimizer.param_groups)
    return type(optimizer).__name__ + (" with momentum" if momentum else "")


def _parameter_names(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the optimizer's parameters, in its order."""
    names = {id(p): name for name, p in module.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


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
