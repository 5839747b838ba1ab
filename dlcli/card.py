"""What travels with a model: enough to rebuild it, feed it and read its answers.

The card is JSON in the file's own metadata slot (the safetensors header, ONNX metadata_props). It
holds no code and names nothing to import: model names are looked up in the registry.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dlcli.errors import DlcliError

CARD_KEY = "dlcli.card"
CARD_SCHEMA = 1

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class Frozen(BaseModel):
    """Immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageInput(Frozen):
    """How an image becomes a tensor. Pixels are uint8 (H, W, C) up to here; then (x/255 - mean)/std.

    ``resize`` "crop": the shorter side becomes ``resize_size`` and the centre is cut out; "squash":
    both sides are set; "none": the image must already have this size.
    """

    kind: Literal["image"] = "image"
    channels: Literal[1, 3]
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    resize: Literal["crop", "squash"] = "crop"
    resize_size: int = Field(ge=1)
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> ImageInput:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError("mean and std need one number a channel")
        if any(s <= 0 for s in self.std):
            raise ValueError("std must be positive")
        if self.resize == "crop" and self.resize_size < max(self.height, self.width):
            raise ValueError("resize_size must be at least the cropped size")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), as the model sees one sample."""
        return (self.channels, self.height, self.width)


class TaskSpec(Frozen):
    """The contract between data and model."""

    kind: Literal["classification"] = "classification"
    input: ImageInput
    class_names: tuple[str, ...] = Field(min_length=2)

    @property
    def num_classes(self) -> int:
        """The number of classes; the model gives one logit for each, in the order of the names."""
        return len(self.class_names)


class ModelSpec(Frozen):
    """A registered model and its arguments: enough to build the module."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)


class TransformRecord(Frozen):
    """What was done to the structure since it was built (pruned, quantized): enough to replay it."""

    kind: str
    args: dict[str, Any] = Field(default_factory=dict)


class DataRecord(Frozen):
    """Where the training data was and what it was, so that `eval` needs no option."""

    data: str
    data_dir: str | None = None
    fingerprint: str = ""


class Card(Frozen):
    """The self-description of an artifact."""

    # A loss may be infinite; as null it could not be read back.
    model_config = ConfigDict(ser_json_inf_nan="strings")

    schema_version: int = CARD_SCHEMA
    model: ModelSpec
    task: TaskSpec
    transforms: tuple[TransformRecord, ...] = ()
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    data: DataRecord | None = None
    weights_from: str = "scratch"
    parent: str | None = None
    params: int = 0
    epoch: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    def to_json(self) -> str:
        """The card as one line of JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str, *, source: object) -> Card:
        """Parse a card. Raises: DlcliError naming ``source`` when it is damaged or too new."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the card"
            raise DlcliError(
                f"{source}: its card cannot be read ({where}: {first['msg']})",
                hint=f"this dlcli reads schema {CARD_SCHEMA}; a newer dlcli may have written it",
            ) from exc
