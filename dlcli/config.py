"""Settings: groups of fields, declared once, that become flags, YAML keys and ``--set`` keys.

Layers, weakest first: the defaults here, the model's recipe, ``--config FILE``, ``--set key=value``,
flags that were really typed. Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from dlcli.errors import UsageError, nearest
from dlcli.task import Frozen, InputKind, Interpolation, TaskKind

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def setting(default: Any, help: str, *flags: str, **bounds: Any) -> Any:
    """A field with its help; with ``flags`` it is also a command-line option."""
    return Field(default, description=help, json_schema_extra={"flags": list(flags)}, **bounds)


class DataConfig(Frozen):
    """Data"""

    data: str | None = setting(
        None, "A folder, a file, or a data set's name such as digits.", "--data", "-d"
    )
    data_dir: str | None = setting(None, "Where a named data set lies on disk.", "--data-dir")
    kind: InputKind | None = setting(
        None, "What the data is (default: found by looking at it).", "--kind"
    )
    task: TaskKind | None = setting(
        None, "What is predicted (default: found by looking at the target).", "--task"
    )
    target: str | None = setting(
        None,
        "Column to predict, or several with commas (default: one named label, or the last).",
        "--target",
    )
    text: str | None = setting(None, "Column of the text (default: the one that looks like text).")
    drop: tuple[str, ...] = setting((), "Columns to leave out.")
    split_column: str | None = setting(
        None, "Column that says train, val or test for each row.", "--split-column"
    )
    group_column: str | None = setting(
        None, "Rows of one value of this column stay in one split.", "--group-column"
    )
    time_column: str | None = setting(
        None, "Column of the time of a long series (default: found).", "--time-column"
    )
    window: int | None = setting(None, "Time steps a forecast sees.", "--window", ge=1)
    horizon: int | None = setting(None, "Time steps it predicts.", "--horizon", ge=1)
    time_splits: tuple[float, ...] | None = setting(
        None, "Train, val and test of a long series, in order: shares below 1, or rows."
    )
    tokenizer: Literal["word", "bpe"] = setting("word", "How texts are cut.", "--tokenizer")
    vocab_size: int = setting(20_000, "Largest number of tokens.", ge=8)
    min_count: int = setting(1, "Words seen less often in training count as unknown.", ge=1)
    lowercase: bool = setting(True, "Whether Cat and cat are one word.")
    max_length: int | None = setting(
        None, "Longest text or series (default: from the training split).", "--max-length", ge=1
    )
    balance: Literal["none", "weights", "sampler", "focal"] = setting(
        "none", "Against classes of unequal size: weighted loss, sampling, focal loss.", "--balance"
    )
    offline: bool = setting(False, "Never try the network.", "--offline")
    on_bad_sample: Literal["skip", "fail"] = setting(
        "skip", "Unreadable samples: skip and count them, or fail.", "--on-bad-sample"
    )
    workers: int | None = setting(
        None, "Threads that decode images (default: one a core).", "--workers", "-j", ge=1, le=256
    )
    val_fraction: float = setting(0.1, "Share held out where there is no validation split.", gt=0, lt=1)
    test_fraction: float = setting(0.1, "Share held out of a source with no splits at all.", ge=0, lt=1)
    cache: Literal["auto", "ram", "none"] = setting("auto", "Keep decoded pixels in memory.")

    def meaning(self) -> dict[str, Any]:
        """The settings that say what the data means, where they are not the default."""
        names = (
            *("kind", "task", "target", "text", "drop", "split_column", "group_column"),
            *("time_column", "window", "horizon", "time_splits", "val_fraction", "test_fraction"),
        )
        default = type(self)()
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(default, n)}


class ModelConfig(Frozen):
    """Model"""

    name: str | None = setting(
        None, "One of dlcli models, torchvision's or timm:NAME, or file.py:Class.", "--model", "-m"
    )
    img_size: int | None = setting(
        None, "Side of the square input in pixels (default: the model's).", "--img-size", ge=1, le=4096
    )
    pretrained: bool | None = setting(
        None,
        "Start from ImageNet weights (default: when they can be had).",
        "--pretrained/--no-pretrained",
    )
    weights: str | None = setting(
        None, "Start from this file: a dlcli artifact, .pth or .safetensors.", "--weights"
    )
    freeze: Literal["none", "backbone"] = setting("none", "backbone: train the head alone.", "--freeze")
    head: Literal["linear", "mlp"] = setting("linear", "Head of a torchvision model.", "--head")
    resize: Literal["crop", "squash"] = setting(
        "crop", "Fit images by cutting out the centre, or by squashing both sides."
    )
    crop_fraction: float = setting(1.0, "Share of the shorter side that crop keeps.", gt=0, le=1)
    interpolation: Interpolation = setting("bilinear", "How pixels are resized (antialiased).")
    args: dict[str, Any] = setting({}, "The model's own arguments, such as dropout.")


class OptimConfig(Frozen):
    """Optimizer and schedule"""

    optimizer: Literal["adamw", "sgd"] = setting("adamw", "Update rule.", "--optimizer")
    lr: float = setting(1e-3, "Peak learning rate.", "--lr", gt=0)
    scheduler: Literal["onecycle", "cosine", "constant"] = setting(
        "onecycle", "Shape of the learning rate over the run.", "--scheduler"
    )
    warmup: float = setting(0.0, "Warm-up, as a share of all steps.", "--warmup", ge=0, lt=1)
    weight_decay: float = setting(
        0.01, "Decay of weights; norms and biases are left alone.", "--weight-decay", ge=0
    )
    momentum: float = setting(0.9, "Momentum of sgd (Nesterov).", ge=0, lt=1)
    label_smoothing: float = setting(0.0, "Share of the target spread over all classes.", ge=0, lt=1)
    clip_grad_norm: float | None = setting(None, "Largest gradient norm.", gt=0)


class AugmentConfig(Frozen):
    """Augmentation"""

    level: Literal["none", "light", "standard", "strong"] | None = setting(
        None,
        "How much training images are varied (default: the model's, else none). "
        "All but none also mirror them: --set augment.flip=0 for digits and letters.",
        "--augment",
    )
    crop_scale: float | None = setting(
        None, "Smallest share of the area that a random resized crop keeps; 1: off.", gt=0, le=1
    )
    flip: float | None = setting(None, "Share of images mirrored left to right.", ge=0, le=1)
    vertical_flip: float | None = setting(None, "Share of images turned upside down.", ge=0, le=1)
    rotation: float | None = setting(None, "Largest rotation in degrees.", ge=0, le=180)
    translate: float | None = setting(None, "Largest shift, as a share of each side.", ge=0, lt=1)
    jitter: float | None = setting(
        None, "Largest change of brightness, contrast and saturation, as a share.", ge=0, lt=1
    )
    randaugment: float | None = setting(None, "Magnitude of RandAugment; 0: off.", ge=0, le=10)
    randaugment_ops: int = setting(2, "Operations that RandAugment draws for an image.", ge=1, le=8)
    erasing: float | None = setting(None, "Share of images that lose a random rectangle.", ge=0, le=1)
    mixup: float | None = setting(None, "MixUp: alpha of its Beta distribution; 0: off.", ge=0, le=100)
    cutmix: float | None = setting(None, "CutMix: alpha of its Beta distribution; 0: off.", ge=0, le=100)


class FitConfig(Frozen):
    """Training"""

    epochs: int = setting(10, "Passes over the training split.", "--epochs", "-e", ge=1)
    batch_size: int = setting(64, "Samples one optimizer step sees.", "--batch-size", "-b", ge=1)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps or xpu.", "--device")
    amp: Literal["auto", "none", "bf16", "fp16"] = setting("auto", "Mixed precision.", "--amp")
    seed: int = setting(0, "Of the split, the order and the weights.", "--seed", ge=0, lt=2**31)
    monitor: str | None = setting(
        None, "Validation metric that picks the best epoch (default: by task).", "--monitor"
    )
    patience: int | None = setting(
        None, "Stop after this many epochs without a better metric.", "--patience", ge=1
    )
    checkpoint_every: str = setting(
        "1ep,5min", "When to save the state: N steps, Nmin or Nep.", "--checkpoint-every"
    )
    keep_states: int = setting(2, "How many training states are kept.", ge=1)
    log_every: float = setting(0.5, "Seconds between progress events.", ge=0)


class TrainConfig(Frozen):
    """Everything `train` can be told."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()
    fit: FitConfig = FitConfig()


class EvalConfig(Frozen):
    """Evaluation"""

    data: str | None = setting(
        None, "Other data to evaluate on (default: what it was trained on).", "--data", "-d"
    )
    data_dir: str | None = setting(None, "Where a named data set lies on disk.", "--data-dir")
    split: Literal["auto", "train", "val", "test", "all"] = setting(
        "auto", "auto: test where there is one, else val.", "--split"
    )
    baselines: bool = setting(
        False, "Fit strong baselines too: TF-IDF, linear, boosted trees, 1-NN.", "--baselines"
    )
    beams: int = setting(
        1, "Translations that are followed at once; 1 takes each best token.", "--beams", ge=1
    )
    tta: Literal["none", "flip"] = setting(
        "none", "Average over views of an image: flip is its mirror image.", "--tta"
    )
    batch_size: int | None = setting(
        None, "Samples at a time (default: by image size).", "--batch-size", "-b", ge=1
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps or xpu.", "--device")
    workers: int | None = setting(
        None, "Threads that decode images (default: one a core).", "--workers", "-j", ge=1, le=256
    )
    on_bad_sample: Literal["skip", "fail"] = setting(
        "skip", "Unreadable samples: skip and count them, or fail.", "--on-bad-sample"
    )
    offline: bool = setting(False, "Never try the network.", "--offline")


class ExportConfig(Frozen):
    """Export"""

    opset: int = setting(20, "ONNX operator set.", "--opset", ge=18, le=23)
    samples: int = setting(
        256, "Validation samples that the written file is compared on.", "--samples", ge=1
    )
    tolerance: float = setting(
        1e-3, "Largest difference of a logit, as a share of the largest logit.", "--tolerance", gt=0
    )
    agreement: float = setting(
        0.99, "Share of samples that must get the same class.", "--agreement", ge=0, le=1
    )
    max_drop: float = setting(0.005, "Largest loss of accuracy.", "--max-drop", ge=0)
    workers: int | None = setting(
        None, "Threads that decode images (default: one a core).", "--workers", "-j", ge=1, le=256
    )
    offline: bool = setting(False, "Never try the network.", "--offline")


class PredictConfig(Frozen):
    """Prediction"""

    top_k: int = setting(3, "How many classes are named for each input.", "--top-k", "-k", ge=1)
    beams: int = setting(
        1, "Translations that are followed at once; 1 takes each best token.", "--beams", ge=1
    )
    tta: Literal["none", "flip"] = setting(
        "none", "Average over views of an image: flip is its mirror image.", "--tta"
    )
    batch_size: int | None = setting(
        None, "Samples at a time (default: by image size).", "--batch-size", "-b", ge=1
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps or xpu.", "--device")
    workers: int | None = setting(
        None, "Threads that decode images (default: one a core).", "--workers", "-j", ge=1, le=256
    )


def fields_of(config: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted key to pydantic field of every setting, groups opened."""
    found: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= fields_of(field.annotation, f"{key}.")
        else:
            found[key] = field
    return found


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings laid over each other; a later layer wins, key by key."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
                out[key] = merge(out[key], value)
            else:
                out[key] = value
    return out


def nested(key: str, value: Any) -> dict[str, Any]:
    """``nested("optim.lr", 1)`` is ``{"optim": {"lr": 1}}``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]  # the loop runs at least once


def load_yaml(path: Path) -> dict[str, Any]:
    """A configuration file. Raises: UsageError when it is missing, no YAML or no mapping."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read --config {path}: {exc}") from exc
    except (yaml.YAMLError, ValueError) as exc:  # a ValueError: a date such as 2026-13-45
        raise UsageError(f"--config {path} is no YAML: {' '.join(str(exc).split())}") from exc
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"--config {path} must map setting names to values")
    return loaded


def parse_set(item: str) -> dict[str, Any]:
    """``optim.lr=3e-4`` as a layer. Raises: UsageError when there is no ``=``."""
    key, eq, text = item.partition("=")
    if not eq or not key.strip():
        raise UsageError(f"--set {item!r} is not of the form key=value", hint="--set optim.lr=3e-4")
    try:
        return nested(key.strip(), yaml.safe_load(text) if text else "")
    except (yaml.YAMLError, ValueError) as exc:
        raise UsageError(f"--set {item!r}: the value is no YAML") from exc


def validate(config: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """The validated, frozen settings. Raises: UsageError naming the key and the value."""
    try:
        return config.model_validate(values)
    except ValidationError as exc:
        raise _usage_error(config, exc) from exc


def dump_yaml(config: BaseModel) -> str:
    """The settings as YAML that `validate` reads back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _usage_error(config: type[BaseModel], exc: ValidationError) -> UsageError:
    known = fields_of(config)
    first = exc.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        leaf = key.rsplit(".", 1)[-1]
        same_leaf = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
        hint = f"did you mean {same_leaf[0]!r}?" if same_leaf else nearest(key, known)
        return UsageError(f"unknown setting {key!r}", hint=hint)
    field = known.get(key)
    flags = field.json_schema_extra["flags"] if field is not None else []
    where = f"{key} ({flags[0]})" if flags else key
    return UsageError(f"{where} = {first['input']!r}: {first['msg'].lower()}")
