"""The fields of a run's record and of measurements that a page shows. Unknown ones are ignored."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

from dlcli.wording import plural


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Command(_Read):
    """A command line, and when it was started."""

    argv: tuple[str, ...] = ()
    started_at: str = ""


class ModelFacts(_Read):
    """The model in a run's record."""

    name: str = ""
    args: dict[str, Any] = {}


class PlanFacts(_Read):
    """The plan in a run's record; ``task`` describes the input and the classes."""

    model: ModelFacts = ModelFacts()
    task: dict[str, Any] = {}
    weights_from: str = ""
    parent: str | None = None


class SplitFacts(_Read):
    """A split of the data: samples, those of each class, quantiles of each target."""

    samples: int = 0
    given: bool = False
    classes: dict[str, int] = {}
    targets: dict[str, dict[str, float | None]] = {}


class DataFacts(_Read):
    """The data of a run."""

    name: str = ""
    origin: str = ""
    kind: str = ""
    splits: dict[str, SplitFacts] = {}


class LayerFacts(_Read):
    """A module of the model, and its own parameters."""

    path: str = ""
    type: str = ""
    shapes: dict[str, tuple[int, ...]] = {}
    params: int = 0


class MachineFacts(_Read):
    """The machine that a run was trained on."""

    system: str = ""
    cpu: str = ""
    cores: int | None = None
    memory_bytes: int | None = None


class TimeFacts(_Read):
    """Where the time of a training went."""

    seconds: dict[str, float] = {}
    samples_per_s: float | None = None


class RunRecord(_Read):
    """run.json, of any version."""

    argv: tuple[str, ...] = ()
    started_at: str = ""
    resumed: tuple[Command, ...] = ()
    seed: int | None = None
    versions: dict[str, str] = {}
    git: str | None = None
    fingerprint: str | None = None
    device: str | None = None
    world_size: int | None = None
    micro_batch: int | None = None
    plan: PlanFacts = PlanFacts()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    origins: dict[str, str] = {}
    data: DataFacts = DataFacts()
    layers: tuple[LayerFacts, ...] = ()
    machine: MachineFacts = MachineFacts()
    time: TimeFacts = TimeFacts()
    bad_samples: dict[str, str] = {}


class Ratio(_Read):
    """How many times as fast: median and range; ``doubt`` is why that is not known."""

    median: float = math.nan
    low: float = math.nan
    high: float = math.nan
    doubt: str | None = None


class Side(_Read):
    """A model before or after a change."""

    artifact: str = ""
    format: str = ""
    size_bytes: int = 0
    params: int = 0
    latency_ms: dict[str, float] = {}
    throughput: dict[str, float] = {}
    metrics: dict[str, float] = {}


class Change(_Read):
    """What `export`, `quantize` and `prune` give as JSON. ``before`` is None without a comparison."""

    artifact: str = ""
    output: str = ""
    method: str | None = None
    format: str | None = None
    before: Side | None = None
    after: Side | None = None
    metric: str = ""
    difference: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    agreement: float | None = None
    split: str = ""
    samples: int = 0
    note: str = ""
    speedup: dict[str, Ratio] = {}
    device: str = ""
    clock: str = "wall"
    busy_cores: float = 0.0
    verdict: tuple[str, ...] = ()
    missed: str | None = None


class BenchmarkRow(_Read):
    """A row of a benchmark."""

    artifact: str = ""
    format: str = ""
    backend: str | None = None
    amp: str = "none"
    device: str | None = None
    size_bytes: int = 0
    params: int = 0
    metric: str | None = None
    metrics: dict[str, float] = {}
    agreement: float | None = None
    peak_mib: float | None = None
    latency_ms: dict[str, float] = {}
    throughput: dict[str, float] = {}
    speedup: dict[str, Ratio] = {}
    error: str | None = None


class Benchmark(_Read):
    """What `benchmark` gives as JSON."""

    batch_sizes: tuple[int, ...] = ()
    threads: int = 0
    rounds: int = 0
    split: str | None = None
    inputs: str = ""
    clock: str = "wall"
    busy_cores: float = 0.0
    doubt: str | None = None
    rows: tuple[BenchmarkRow, ...] = ()


class SearchFacts(_Read):
    """How a study searches."""

    sampler: str = ""


class StudyRecord(_Read):
    """The record of a study; ``direction`` is 1 where more of the metric is better, else -1."""

    monitor: str
    direction: int
    task: str = ""
    data: str = ""
    val_samples: int = 0
    tune: SearchFacts = SearchFacts()
    folds: int | None = None
    second: str = ""

    @property
    def estimate(self) -> str:
        """Of what the metric is, in a word: val, or 3-fold."""
        return "val" if self.folds is None else f"{self.folds}-fold"

    @property
    def samples(self) -> str:
        """The samples that trials are compared on, in words."""
        return plural(self.val_samples, "validation sample" if self.folds is None else "held-out sample")


class DifferenceFacts(_Read):
    """A difference from the default settings, and its 95 % interval, None where that is unknown."""

    difference: float
    low: float | None = None
    high: float | None = None
    better: bool | None = None


class TrialFacts(_Read):
    """A trial of a study; ``value`` is the metric of its best epoch."""

    number: int
    run: str
    status: str
    model: str = ""
    settings: dict[str, Any] = {}
    value: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""
    difference: DifferenceFacts | None = None
    second: float | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"trial-{self.number:03d}"


class TestFacts(_Read):
    """Metrics on the test split."""

    metrics: dict[str, float] = {}
    samples: int = 0


class StudyResult(_Read):
    """What a study gave."""

    best: TrialFacts
    trials: tuple[TrialFacts, ...]
    best_config: str = ""
    artifact: str = ""
    difference_from_default: DifferenceFacts | None = None
    gain_by_chance: float | None = None
    val_too_small: bool = False
    test: TestFacts | None = None
    importance: dict[str, float] = {}
    damaged_lines: int = 0
    front: tuple[int, ...] = ()
