"""The card of a model file: enough to rebuild the model, feed it and read its outputs.

The card is JSON in the file's own metadata slot (the safetensors header, ONNX metadata_props). It
holds no code and names nothing to import: model names are looked up in the registry.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from dlcli.errors import DlcliError
from dlcli.task import Frozen, TaskSpec

CARD_KEY = "dlcli.card"
CARD_SCHEMA = 1


class ModelSpec(Frozen):
    """A registered model and its arguments: enough to build the module."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)


class TransformRecord(Frozen):
    """What was done to a model since it was built; `dlcli.transforms` names the kinds."""

    kind: str
    args: dict[str, Any] = Field(default_factory=dict)


class DataRecord(Frozen):
    """Where the training data was and how it was read, so that `eval` needs no option.

    ``options`` are the settings of `DataConfig` that say what the data means (kind, target, columns).
    """

    data: str
    data_dir: str | None = None
    fingerprint: str = ""
    options: dict[str, Any] = Field(default_factory=dict)


class Card(Frozen):
    """The self-description of an artifact."""

    # A loss may be infinite; as null it could not be read back.
    model_config = ConfigDict(ser_json_inf_nan="strings")

    schema_version: int = CARD_SCHEMA
    model: ModelSpec
    task: TaskSpec
    transforms: tuple[TransformRecord, ...] = ()
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    monitor: str | None = None  # the metric that chose the epoch
    data: DataRecord | None = None
    weights_from: str = "scratch"
    parent: str | None = None
    params: int = 0
    epoch: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    def with_record(self, kind: str, **args: Any) -> Card:
        """This card with one more `TransformRecord` at the end."""
        record = TransformRecord(kind=kind, args=args)
        return self.model_copy(update={"transforms": (*self.transforms, record)})

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
