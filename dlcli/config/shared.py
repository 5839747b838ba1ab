"""Mixins: settings that several groups have.

pydantic orders fields from the last base to the first, so the base with the first fields is named last.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator

from dlcli.config.devices import parse_device
from dlcli.errors import UsageError
from dlcli.schema import Frozen
from dlcli.settings import PathText, parsed_by, setting
from dlcli.trust import METRICS_GROUP, full_name, names_code

Split = Literal["auto", "train", "val", "test", "all"]
Amp = Literal["auto", "none", "bf16", "fp16"]
FixedAmp = Literal["none", "bf16", "fp16"]


def parse_sizes(text: str, flag: str = "--batch-sizes") -> tuple[int, ...]:
    """Return the numbers in "1,32", each once. Raises: UsageError for other text or a size below 1."""
    try:
        sizes = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is not a list of numbers", hint=f"{flag} 1,32") from None
    if min(sizes) < 1:
        raise UsageError(f"{flag} {text!r}: a batch size is at least 1")
    return sizes


class DataFolder(Frozen):
    """Where named data sets are stored"""

    data_dir: PathText = setting(
        None, "Folder that holds a named data set.", "--data-dir", advanced=True, on_resume="allowed"
    )


class Offline(Frozen):
    """Network access"""

    offline: bool = setting(
        False, "Do not use the network.", "--offline", advanced=True, on_resume="allowed"
    )


class DecodingThreads(Frozen):
    """Image decoding"""

    workers: int | None = setting(
        None,
        "Image decoding threads (default: one per core).",
        "--workers",
        "-j",
        ge=1,
        le=256,
        advanced=True,
        on_resume="allowed",
    )


class BadSamples(Frozen):
    """Unreadable samples"""

    on_bad_sample: Literal["skip", "fail"] = setting(
        "skip",
        "Unreadable samples: skip and count them, or fail.",
        "--on-bad-sample",
        advanced=True,
        on_resume="forced",
    )


class Device(Frozen):
    """Device"""

    device: Annotated[str, parsed_by(parse_device)] = setting(
        "auto", "auto, cpu, cuda, cuda:1, mps or xpu.", "--device", on_resume="allowed"
    )


class TrainingDevice(Device):
    """Device and precision of training"""

    amp: Amp = setting("auto", "Mixed precision.", "--amp", advanced=True)


def _metric(name: str) -> str:
    """Returns the name with an absolute path. Raises: ValueError for what is no code of the user's."""
    if not names_code(name, METRICS_GROUP):
        raise ValueError("give path/to/file.py:FUNCTION; dlcli's own metrics are always computed")
    return full_name(name)


class UserMetrics(Frozen):
    """Metrics of the user's own"""

    metrics: tuple[Annotated[str, AfterValidator(_metric)], ...] = setting(
        (),
        "A metric of your own, path/to/file.py:FUNCTION of (outputs, targets); may be repeated.",
        "--metric",
        advanced=True,
        on_resume="allowed",
    )


class EvaluationData(Offline, DecodingThreads, DataFolder):
    """The samples that a trained model is measured on"""

    data: PathText = setting(
        None, "Other data to evaluate on (default: the training data's).", "--data", "-d"
    )
    split: Split = setting("auto", "Split; auto: test if there is one, else val.", "--split")


class ForeignTable(Frozen):
    """The table of a model file of another program"""

    target: str | None = setting(
        None,
        "Target column of --data, or A,B, of a file without a card (default: the last column).",
        "--target",
        "-t",
        advanced=True,
    )


class Inference(Device, DecodingThreads):
    """How a model is run on samples"""

    batch_size: int | None = setting(
        None, "Batch size (default: by image size).", "--batch-size", "-b", ge=1
    )
    device: Annotated[str, parsed_by(parse_device)] = setting(
        "auto",
        "auto, cpu, cuda:1, mps, xpu; ONNX files: tensorrt.",
        "--device",
        on_resume="allowed",
    )
    beams: int = setting(1, "Beam width for translation; 1: greedy decoding.", "--beams", ge=1)
    amp: FixedAmp = setting(
        "none", "Mixed precision of a model that torch runs; its figures differ a little.", "--amp"
    )
    tta: Literal["none", "flip"] = setting(
        "none", "Test-time augmentation: average over the image and its mirror image.", "--tta"
    )


class Timing(Frozen):
    """Latency measurement"""

    batch_sizes: Annotated[str, parsed_by(parse_sizes)] = setting(
        "1,32", "Batch sizes to time, comma-separated.", "--batch-sizes", advanced=True
    )
    rounds: int = setting(5, "Rounds in which the models are timed in turn.", ge=2)
    seconds: float = setting(
        1.0, "Seconds of timed calls per model and batch size.", "--seconds", gt=0, advanced=True
    )
    threads: int | None = setting(
        None,
        "CPU threads of a forward pass (default: OMP_NUM_THREADS, else one per core, and one where "
        "other programs use the cores).",
        "--threads",
        ge=1,
        advanced=True,
    )
    time_limit: float | None = setting(
        None,
        "Most seconds for timing, starts of processes included (default: 60 a file, 600 where it is "
        "compiled, and three times the timed calls).",
        "--time-limit",
        gt=0,
        advanced=True,
    )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes as numbers. Raises: UsageError."""
        return parse_sizes(self.batch_sizes)
