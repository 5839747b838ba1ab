"""Events of a run: frozen dataclasses of plain Python values.

The core never prints: it calls ``emit(event)``. The live view, the plain lines, metrics.jsonl and
TensorBoard are sinks: functions that take one event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON-ready data, with its type under ``event``."""
        return {"event": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class Warned(Event):
    """A warning."""

    message: str


@dataclass(frozen=True)
class Noted(Event):
    """An automatic decision that is worth knowing, but no warning."""

    message: str


@dataclass(frozen=True)
class RunStarted(Event):
    """The plan of a run, before its first step (or after a resume).

    ``kind`` is the kind of data. ``num_classes`` is 0 for tasks without classes. ``input_shape`` is of
    one sample; a varying dimension has a name. ``division`` is the global batch in words: "256 = 2
    devices x 4 micro-batches x 32", ``schedule`` the learning rate schedule in words. ``notes`` are
    sentences, such as on class balance, window and horizon. ``settings`` has all, by dotted key.
    """

    run: str
    model: str
    params: int
    trainable_params: int
    data: str
    kind: str
    task: str
    samples: dict[str, int]
    num_classes: int
    input_shape: tuple[int | str, ...]
    epochs: int
    steps_per_epoch: int
    total_steps: int
    batch_size: int
    optimizer: str
    scheduler: str
    lr: float
    device: str
    amp: str
    monitor: str
    notes: tuple[str, ...] = ()
    resumed_step: int = 0
    world_size: int = 1
    division: str = ""
    schedule: str = ""
    loss: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepDone(Event):
    """One logging interval of training; loss and accuracy are means over the epoch so far.

    ``accuracy`` is None where the task has none. ``grad_norm`` is of the last step, before clipping;
    ``skipped`` counts the run's steps so far with non-finite gradients.
    """

    step: int
    total_steps: int
    epoch: int
    epochs: int
    step_in_epoch: int
    steps_per_epoch: int
    loss: float
    accuracy: float | None
    lr: float
    samples_per_s: float
    elapsed_s: float
    eta_s: float
    memory_mib: float | None = None
    grad_norm: float | None = None
    skipped: int = 0


@dataclass(frozen=True)
class EvalProgress(Event):
    """Samples of a split evaluated so far; ``unit`` names what else is counted."""

    split: str
    done: int
    total: int
    unit: str = "samples"


@dataclass(frozen=True)
class EpochDone(Event):
    """An epoch's training figures and the validation metrics after it.

    ``accuracy`` is None where the task has none, or where training mixes samples.
    """

    epoch: int
    epochs: int
    step: int
    loss: float
    accuracy: float | None
    lr: float
    val: dict[str, float]
    monitor: str
    improved: bool
    samples_per_s: float
    epoch_s: float
    elapsed_s: float
    grad_norm: float | None = None
    skipped: int = 0


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A model or a training state is complete on disk."""

    what: str  # "best" or "state"
    path: str
    step: int


@dataclass(frozen=True)
class RunFinished(Event):
    """The last event of a run that was not interrupted; ``reason`` is why it ended early, if it did.

    ``phase_s`` has the seconds of each phase of training: data, step, evaluation, saving, other.
    ``samples_per_s`` is of the steps and the waits for their data; ``unit`` names the samples.
    ``streamed`` is whether samples were decoded anew in every epoch, ``cores`` what the process could
    use, ``core_wait`` the share of the time in which it was ready and had none.
    """

    run: str
    step: int
    epochs_done: int
    monitor: str
    best: float
    best_epoch: int
    elapsed_s: float
    stopped_early: bool = False
    reason: str = ""
    phase_s: dict[str, float] = field(default_factory=dict)
    samples_per_s: float = math.nan
    unit: str = "samples"
    streamed: bool = False
    cores: int = 1
    core_wait: float = 0.0


@dataclass(frozen=True)
class OperatorTime:
    """An operator in a trace: its calls, the time in itself, and its share of the time of all."""

    name: str
    calls: int
    cpu_ms: float
    device_ms: float | None  # None on the CPU
    share: float


@dataclass(frozen=True)
class Profiled(Event):
    """A trace of ``steps`` steps from ``first_step`` on; its dearest operators by CPU or CUDA time."""

    path: str
    first_step: int
    steps: int
    by: str
    operators: tuple[OperatorTime, ...]


@dataclass(frozen=True)
class LiveEvent(Event):
    """An event that holds arrays or a module, for TensorBoard; not written to metrics.jsonl."""


@dataclass(frozen=True)
class ModelReady(LiveEvent):
    """The model before its first step, and one batch of its input tensors, on its device."""

    module: Any
    inputs: tuple[Any, ...]


@dataclass(frozen=True)
class Histograms(LiveEvent):
    """Weights and gradients after an epoch, by parameter name: counts (bins,) and edges (bins + 1,)."""

    step: int
    weights: dict[str, tuple[Any, Any]]
    gradients: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Examples(LiveEvent):
    """Validation images with true and predicted class names: uint8 (n, H, W, C)."""

    step: int
    images: Any
    true: tuple[str, ...]
    predicted: tuple[str, ...]


Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Discard an event."""


@dataclass(frozen=True)
class Tee:
    """Pass every event to several sinks, in order."""

    sinks: Sequence[Emit] = field(default_factory=tuple)

    def __call__(self, event: Event) -> None:
        for sink in self.sinks:
            sink(event)
