"""The outputs of a frozen backbone, computed once: later epochs train the head alone.

A module is cut at its child that holds the head. What is frozen in front of it gives a sample the same
output in every epoch, so it is computed when it is first needed, in eval mode: of the sample without
augmentation, or of ``copies`` augmented versions, which the epochs take in turn.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dlcli.data.base import Indices, Inputs, Reader
from dlcli.evaluation.evaluate import default_batch_size
from dlcli.task import TaskSpec
from dlcli.training.augmentation.augment import Augment
from dlcli.training.loop.job import FitJob
from dlcli.training.readers import WHOLE
from dlcli.training.validation import make_validate
from dlcli.zoo.forward import model_inputs
from dlcli.zoo.precision import Precision

# Of one split; a constant, since what a run computes must not depend on the machine.
MAX_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Cut:
    """A module, cut in front of its child of that ``name``, which holds the head."""

    module: nn.Module
    name: str

    @property
    def head(self) -> nn.Module:
        """The child."""
        return self.module.get_submodule(self.name)

    @cached_property
    def backbone(self) -> nn.Module:
        """A copy of the module in eval mode, as its weights are when this is first asked for.

        A resumed run gets its weights after its job is built, so nobody may ask before.
        """
        return copy.deepcopy(self.module).eval()

    def features(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """What the head gets for a batch, in float32."""
        return _input_of(self.backbone, self.name, inputs)


def _input_of(module: nn.Module, name: str, inputs: tuple[Tensor, ...]) -> Tensor:
    seen: list[Tensor] = []
    handle = module.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        handle.remove()
    return seen[0].float()


def cut_at_head(module: nn.Module, head: str, sample: tuple[Tensor, ...], samples: int) -> Cut | str:
    """Cut a module whose layers are frozen as at the start of a run, or say why that cannot be done.

    ``head`` is the path of the head, ``sample`` the module's inputs for two samples, ``samples`` the
    size of the largest split. The child is cut that holds the head: what stands in front of the last
    layer there, such as dropout, stays part of every step.
    """
    name = head.partition(".")[0]
    if name not in dict(module.named_children()):
        return "the model has no head of its own"
    for path, parameter in module.named_parameters():
        if parameter.requires_grad and not path.startswith(f"{name}."):
            return f"{path.rpartition('.')[0]} is not frozen"
    trial = copy.deepcopy(module).eval()
    try:
        features = _input_of(trial, name, sample)
        with torch.no_grad():
            alone, whole = trial.get_submodule(name)(features), trial(*sample).float()
        same = torch.allclose(alone, whole, rtol=1e-3, atol=1e-4)
    except (IndexError, RuntimeError, TypeError):  # the head takes other arguments than one tensor
        same = False
    if not same or len(features) != len(sample[0]):
        return f"the output of {name} is not that of the model"
    size = samples * features[0].numel() * features.element_size()
    if size > MAX_BYTES:
        return f"they would take {size / 2**30:.1f} GiB, more than {MAX_BYTES / 2**30:.0f}"
    return Cut(module, name)


class FeatureReader(Reader):
    """The features of a split (N, ...), float32, each computed when it is first read.

    ``groups`` (N,) numbers the batches in which they are computed, whichever sample is read: so a
    resumed run has the bits of the first. ``augment``, where given, is that of ``epoch``.
    """

    def __init__(
        self,
        reader: Reader,
        cut: Cut,
        task: TaskSpec,
        precision: Precision,
        groups: Indices,
        augment: Augment | None = None,
        epoch: int = 0,
    ) -> None:
        super().__init__(reader.samples)
        self.bad, self.notices = reader.bad, reader.notices
        self._reader, self._cut, self._task, self._precision = reader, cut, task, precision
        self._augment, self._epoch = augment, epoch
        self._groups, self._lock = groups, threading.Lock()
        self._done = np.zeros(len(reader), dtype=bool)  # read once, be they readable or not
        self._filled = np.zeros(len(reader), dtype=bool)
        self._store: npt.NDArray[np.float32] | None = None

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """(features,) of the readable samples among ``indices``, and which of ``indices`` they are."""
        with self._lock:
            missing = np.unique(self._groups[indices[~self._done[indices]]])
            for group in missing.tolist():
                self._fill(np.flatnonzero(self._groups == group).astype(np.int64))
        readable = indices[self._filled[indices]]
        if self._store is None:
            return (np.zeros((0, 1), dtype=np.float32),), readable
        return (np.take(self._store, readable, axis=0),), readable

    def array(self) -> Inputs | None:
        """(features,) of the whole split, once each has been read and none is unreadable."""
        return (self._store,) if self._store is not None and bool(self._filled.all()) else None

    def _fill(self, group: Indices) -> None:
        self._done[group] = True
        inputs, readable = self._reader.read(group)
        if not len(readable):
            return
        device = self._precision.device
        tensors = tuple(torch.from_numpy(array).to(device) for array in inputs)
        if self._augment is not None:
            targets = torch.zeros(len(readable), dtype=torch.int64, device=device)
            tensors, _ = self._augment(tensors, targets, readable, self._epoch)
        with self._precision.autocast():
            features = self._cut.features(model_inputs(tensors, self._task)).cpu().numpy()
        if self._store is None:
            self._store = np.zeros((len(self), *features.shape[1:]), dtype=np.float32)
        self._store[readable] = features
        self._filled[readable] = True


def groups_of(order: Indices, bounds: Sequence[int], samples: int) -> Indices:
    """The number of the batch (N,) in which each sample first comes in an epoch's order.

    Samples that a sampler leaves out of that epoch follow, in batches of the same size.
    """
    sizes = np.diff(bounds)
    groups = np.full(samples, -1, dtype=np.int64)
    groups[order[::-1]] = np.repeat(np.arange(len(sizes)), sizes)[::-1]  # the last assignment counts
    rest = np.flatnonzero(groups < 0)
    groups[rest] = len(sizes) + np.arange(len(rest)) // sizes[0]
    return groups


@dataclass
class FrozenFeatures:
    """The features of the training split, one reader for each copy, and of the validation split.

    ``trains(epoch)`` is whether layers in front of the head train in an epoch, which then takes the
    samples themselves.
    """

    cut: Cut
    train: tuple[FeatureReader, ...]
    val: FeatureReader
    trains: Callable[[int], bool]

    def of_epoch(self, epoch: int) -> FeatureReader | None:
        """The reader of an epoch's training features, or None."""
        if self.trains(epoch):
            return None
        _ = self.cut.backbone  # copied here, not in the thread that reads ahead while the head trains
        return self.train[epoch % len(self.train)]

    @property
    def valid(self) -> bool:
        """Whether all layers in front of the head have been frozen until now."""
        head = {id(parameter) for parameter in self.cut.head.parameters()}
        return not any(p.requires_grad for p in self.cut.module.parameters() if id(p) not in head)

    def predict(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """The outputs of the head, in float32, for features of the validation split."""
        device = next(self.cut.head.parameters()).device
        with torch.inference_mode():
            outputs: npt.NDArray[np.float32] = (
                self.cut.head(torch.from_numpy(inputs[0]).to(device)).float().cpu().numpy()
            )
        return outputs


def use_features(job: FitJob, readers: Mapping[str, Reader], head: str, *, copies: int) -> str:
    """Let a job compute the features of its frozen layers once, where its model can be cut.

    ``readers`` are those of the samples, ``head`` the path of the model's head. Validation goes through
    the head alone as long as no other layer has trained. Returns a sentence for the user.
    """
    module, augment = job.model.module, job.objective.augment
    sample = model_inputs(job.batches.example().inputs, job.task)
    cut = cut_at_head(module, head, sample, max(map(len, readers.values())))
    if isinstance(cut, str):
        return f"features are computed in every epoch: {cut}"
    many = augment is not None and copies > 1
    if many and augment is not None and augment.mixes:
        return "features are computed in every epoch: MixUp and CutMix mix other samples in each"
    float32 = Precision("none", job.device)
    shares, steps = job.model.freezing.changes(), len(job.batches)

    def trains(epoch: int) -> bool:
        return bool(shares) and ((epoch + 1) * steps - 1) / job.total_steps >= shares[0]

    batches, count = job.batches, len(readers["train"])
    reader = readers.get(WHOLE, readers["train"]) if many else readers["train"]
    train = [
        FeatureReader(
            reader,
            cut,
            job.task,
            job.precision,
            groups_of(batches.order(epoch), batches.bounds, count),
            augment if many else None,
            epoch,
        )
        for epoch in range(copies if many else 1)
    ]
    blocks = np.arange(len(readers["val"]), dtype=np.int64) // default_batch_size(job.task)
    val = FeatureReader(readers["val"], cut, job.task, float32, blocks)
    features = FrozenFeatures(cut, tuple(train), val, trains)
    with_features = make_validate(features.predict, val, job.task, job.world, job.emit)
    whole = job.validate
    job.batches.features, job.objective.head = features.of_epoch, cut.head
    job.validate = lambda check_stop: (with_features if features.valid else whole)(check_stop)
    what = f"for {copies} augmented versions of each sample" if many else "without augmentation"
    until = f" until {100 * shares[0]:g} % of the run" if shares else ""
    return f"the frozen layers in front of {cut.name} are computed once{until}, {what}"
