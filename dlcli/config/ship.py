"""The settings of making a model smaller, faster and ready to ship, and of measuring what that did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from dlcli.config.train import Optimizer, Scheduler
from dlcli.errors import UsageError
from dlcli.settings import setting
from dlcli.task import Frozen


def parse_sizes(text: str, flag: str = "--batch-sizes") -> tuple[int, ...]:
    """ "1,32" as numbers, each once. Raises: UsageError for what is none or below 1."""
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of numbers", hint=f"{flag} 1,32") from None
    if min(found) < 1:
        raise UsageError(f"{flag} {text!r}: a batch has at least one sample")
    return found


def parse_names(text: str | None) -> tuple[str, ...]:
    """Names with commas between them, without blanks; none for None."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


_ROUNDING = 1e-12  # of differences of metrics, as a share of them


@dataclass(frozen=True)
class Bound:
    """How much worse a metric may get: in its own unit, or as a share of its value before."""

    amount: float
    relative: bool

    def allowed(self, before: float) -> float:
        """The largest loss, in the metric's own unit."""
        return self.amount * abs(before) if self.relative else self.amount

    def holds(self, drop: float, before: float) -> bool:
        """Whether a loss is allowed: 0.95 - 0.94 is 0.01, whatever a float makes of it; NaN is not."""
        return drop <= self.allowed(before) + _ROUNDING * max(1.0, abs(before))


def parse_bound(text: str | None, flag: str = "--max-drop") -> Bound | None:
    """0.01 or 1%. Raises: UsageError for what is neither, negative or not finite."""
    if text is None:
        return None
    relative = text.strip().endswith("%")
    try:
        amount = float(text.strip().removesuffix("%")) / (100 if relative else 1)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise UsageError(
            f"{flag} {text!r} is no bound", hint=f"{flag} 0.01 in the metric's unit, or {flag} 1%"
        )
    return Bound(amount, relative)


class MeasureConfig(Frozen):
    """Measuring before and after"""

    data: str | None = setting(
        None, "Other data to measure on (default: what it was trained on).", "--data", "-d"
    )
    data_dir: str | None = setting(None, "Where a named data set lies on disk.", "--data-dir")
    split: Literal["auto", "train", "val", "test", "all"] = setting(
        "auto", "Split to measure on; auto: val, so that test has chosen nothing.", "--split"
    )
    samples: int | None = setting(
        None,
        "Samples to measure on, evenly spread (default: the whole split; of export 256).",
        "--samples",
        ge=1,
    )
    latency: bool = setting(
        True, "Measure latency and throughput, in a process for each file.", "--latency/--no-latency"
    )
    batch_sizes: str = setting("1,32", "Batch sizes whose latency is measured.", "--batch-sizes")
    rounds: int = setting(5, "Rounds that before and after take turns in.", ge=2)
    seconds: float = setting(
        1.0, "Seconds of timed calls for each file and batch size.", "--seconds", gt=0
    )
    threads: int | None = setting(
        None, "Threads of a call on CPU (default: one a core).", "--threads", ge=1
    )
    workers: int | None = setting(
        None, "Threads that decode images (default: one a core).", "--workers", "-j", ge=1, le=256
    )
    offline: bool = setting(False, "Never try the network.", "--offline")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes as numbers. Raises: UsageError."""
        return parse_sizes(self.batch_sizes)


# A bound may be "1%", so it is a text; in a file, 0.01 is meant for one too.
_NUMBERS_ARE_TEXT = ConfigDict(coerce_numbers_to_str=True)


class ExportConfig(Frozen):
    """Export"""

    model_config = _NUMBERS_ARE_TEXT

    opset: int = setting(20, "ONNX operator set.", "--opset", ge=18, le=23)
    dynamic: bool = setting(
        True, "Batch and lengths of any size, or all of one size.", "--dynamic/--static"
    )
    batch_size: int | None = setting(
        None, "The batch size of a static file (default: 1).", "--batch-size", "-b", ge=1
    )
    length: int | None = setting(
        None, "The length of texts and series of a static file (default: the longest).", ge=1
    )
    half: bool = setting(False, "Weights and arithmetic in 16 bits (float16).", "--half")
    embed_preprocessing: bool = setting(
        False,
        "Put the preprocessing into the file: raw uint8 images or columns in, probabilities out.",
        "--embed-preprocessing",
    )
    softmax: bool = setting(False, "Give probabilities instead of logits.", "--softmax")
    simplify: bool = setting(False, "Fold constants and fuse nodes of the ONNX graph.", "--simplify")
    tolerance: float | None = setting(
        None,
        "Largest difference of a logit, as a share of the largest logit (default: 0.001, with --half "
        "0.02, of int8 models more).",
        "--tolerance",
        gt=0,
    )
    agreement: float = setting(
        0.99, "Share of samples that must get the same class.", "--agreement", ge=0, le=1
    )
    max_drop: str | None = setting(
        None,
        "Largest loss of the metric: 0.01 in its own unit, or 1% of its value (default: 0.005 of "
        "accuracy and the like, 0.5% of an error).",
        "--max-drop",
    )


class ExportSettings(Frozen):
    """Everything `export` can be told."""

    export: ExportConfig = ExportConfig()
    measure: MeasureConfig = MeasureConfig()


class TuneConfig(Frozen):
    """Fine-tuning; what is not said here is as in the model's own run"""

    epochs: int | None = setting(
        None,
        "Epochs of fine-tuning (default: half of the run's for pruning, a tenth for QAT).",
        "--epochs",
        "-e",
        ge=0,
    )
    lr: float | None = setting(
        None,
        "Peak learning rate (default: the run's own for pruning, a fiftieth for QAT).",
        "--lr",
        gt=0,
    )
    batch_size: int | None = setting(
        None, "Samples one step sees (default: the run's).", "--batch-size", "-b", ge=1
    )
    optimizer: Optimizer | None = setting(None, "Update rule (default: the run's).", "--optimizer")
    scheduler: Scheduler | None = setting(
        None, "Shape of the learning rate (default: cosine with warm-up).", "--scheduler"
    )
    distill: bool = setting(
        True, "Learn the original's answers too (where it is a classifier).", "--distill/--no-distill"
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps or xpu.", "--device")
    amp: Literal["auto", "none", "bf16", "fp16"] = setting("auto", "Mixed precision.", "--amp")
    seed: int | None = setting(
        None, "Of order and chance (default: the run's).", "--seed", ge=0, lt=2**31
    )
    max_steps: int | None = setting(None, "Most optimizer steps.", "--max-steps", ge=1)


class QuantizeConfig(Frozen):
    """Quantization"""

    model_config = _NUMBERS_ARE_TEXT

    method: Literal["auto", "dynamic", "static", "qat", "weight-only", "fp16", "bf16"] = setting(
        "auto", "How; auto tries them in order of cost.", "--method", "-m"
    )
    backend: Literal["onnxruntime", "torch"] | None = setting(
        None, "What runs the result (default: by method).", "--backend"
    )
    target: Literal["x86", "arm"] | None = setting(
        None, "Processor that the scheme is for (default: this machine's).", "--target"
    )
    calibration: Literal["minmax", "entropy", "percentile"] = setting(
        "minmax", "How ranges of activations are found.", "--calibration"
    )
    calibration_samples: int = setting(
        256, "Training samples that calibrate.", "--calibration-samples", ge=1
    )
    bits: Literal[4, 8] = setting(8, "Of a weight, for weight-only.", "--bits")
    group_size: int = setting(64, "Weights that share a scale, for weight-only.", "--group-size", ge=8)
    skip: str | None = setting(
        None, "Layers that stay in float: names or patterns with commas, such as fc,layer4*.", "--skip"
    )
    max_drop: str | None = setting(
        None, "Largest loss of the metric: 0.01 in its own unit, or 1% of its value.", "--max-drop"
    )
    report: Literal["none", "sensitivity"] = setting(
        "none", "Also measure what each layer alone costs.", "--report"
    )


class QuantizeSettings(Frozen):
    """Everything `quantize` can be told."""

    quantize: QuantizeConfig = QuantizeConfig()
    tune: TuneConfig = TuneConfig()
    measure: MeasureConfig = MeasureConfig()


class PruneConfig(Frozen):
    """Pruning"""

    model_config = _NUMBERS_ARE_TEXT

    method: Literal["channel", "l1", "random", "global-l1", "global-random", "ln", "semi-structured"] = (
        setting("channel", "What is taken out.", "--method", "-m")
    )
    amount: float | None = setting(
        None,
        "Share to take out: of weights for masks, of channels or hidden units for channel and ln.",
        "--amount",
        gt=0,
        lt=1,
    )
    target_params: float | None = setting(
        None, "Share of the parameters that may be left (channel).", "--target-params", gt=0, lt=1
    )
    target_macs: float | None = setting(
        None, "Share of the multiply-adds that may be left (channel).", "--target-macs", gt=0, lt=1
    )
    importance: Literal["magnitude", "bn-scale", "taylor"] = setting(
        "magnitude", "What makes a channel worth keeping.", "--importance"
    )
    norm: Literal["1", "2", "inf"] = setting("2", "Norm of a row or channel, for ln.", "--norm")
    dim: int = setting(0, "Dimension of the weight that ln takes slices of.", "--dim", ge=0, le=3)
    round_to: int = setting(8, "Channels left are a multiple of this.", "--round-to", ge=1)
    skip: str | None = setting(
        None, "Layers left as they are: names or patterns with commas, such as conv1,layer4*.", "--skip"
    )
    schedule: Literal["one-shot", "iterative", "agp"] = setting(
        "one-shot", "All at once, in equal steps, or fast first and slow later (agp).", "--schedule"
    )
    steps: int = setting(
        3, "Steps of iterative and agp; --epochs are shared out over them.", "--steps", ge=1
    )
    store: Literal["auto", "dense", "sparse"] = setting(
        "auto", "How zeros are stored; auto: sparse where that is smaller.", "--store"
    )
    max_drop: str | None = setting(
        None,
        "Largest loss of the metric: 0.01 in its own unit, or 1% of its value. Without --amount, the "
        "largest amount that keeps it is searched.",
        "--max-drop",
    )


class PruneSettings(Frozen):
    """Everything `prune` can be told."""

    prune: PruneConfig = PruneConfig()
    tune: TuneConfig = TuneConfig()
    measure: MeasureConfig = MeasureConfig()


class BenchConfig(Frozen):
    """Benchmark"""

    data: str | None = setting(
        None, "Other data to measure accuracy on (default: what each was trained on).", "--data", "-d"
    )
    data_dir: str | None = setting(None, "Where a named data set lies on disk.", "--data-dir")
    split: Literal["auto", "train", "val", "test", "all"] = setting(
        "auto", "auto: test where there is one, else val.", "--split"
    )
    accuracy: bool = setting(True, "Measure accuracy too.", "--accuracy/--no-accuracy")
    batch_sizes: str = setting("1,8,32", "Batch sizes, with commas.", "--batch-sizes", "-b")
    backends: str = setting(
        "eager",
        "Ways to run a torch model, with commas: eager, channels-last, contiguous, compile, cuda-graph.",
        "--backends",
    )
    seconds: float = setting(
        2.0, "Seconds of timed calls for each row and batch size.", "--seconds", gt=0
    )
    rounds: int = setting(5, "Rounds that the rows take turns in.", "--rounds", ge=2)
    threads: int | None = setting(
        None, "Threads of a call on CPU (default: one a core).", "--threads", ge=1
    )
    device: str = setting("cpu", "cpu, cuda or cuda:1.", "--device")
    amp: Literal["none", "fp16", "bf16"] = setting("none", "Mixed precision of torch models.", "--amp")
    workers: int | None = setting(
        None, "Threads that decode images (default: one a core).", "--workers", "-j", ge=1, le=256
    )
    offline: bool = setting(False, "Never try the network.", "--offline")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes as numbers. Raises: UsageError."""
        return parse_sizes(self.batch_sizes)
