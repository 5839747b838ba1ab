"""The contract between data and model: the tensors of one sample, and the model's output.

A `TaskSpec` holds everything that was fitted on the training split (vocabularies, means, class names),
so a card can turn raw data into the model's input anywhere. JSON only, no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from dlcli.registry import Registry
from dlcli.schema import Frozen as Frozen  # noqa: PLC0414
from dlcli.schema import Interpolation as Interpolation  # noqa: PLC0414
from dlcli.schema import TaskKind as TaskKind  # noqa: PLC0414

# The first entries of every vocabulary.
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")
PAD, UNKNOWN, START, END = range(4)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output tensor of a model. A dynamic dimension has a name instead of a size."""

    name: str
    dtype: Literal["float32", "int64"]
    dims: tuple[int | str, ...]


class InputSpec(Frozen):
    """Base class of the inputs: how raw data of one kind becomes the tensors of a model.

    A subclass gives ``kind`` a default, the name of its data kind, and is registered by that name in
    `INPUTS` when it is defined. It lies here, or in the folder of its kind below ``dlcli/data``.
    """

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Register the subclass."""
        INPUTS.register(cls.model_fields["kind"].default)(cls)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, of the longest where lengths vary."""
        raise NotImplementedError

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """The input tensors of a model, in the order of its arguments."""
        raise NotImplementedError


# Input classes by kind of data; ``dlcli/data/*/kind.py`` imports those that are not in this module.
INPUTS: Registry[type[InputSpec]] = Registry("data kind", "dlcli.data", entry_module="kind")


class ImageInput(InputSpec):
    """How an image becomes a tensor: resized uint8 pixels (H, W, C), then (x/255 - mean)/std.

    ``resize`` "crop": resize the shorter side to ``resize_size``, then center crop; "squash": resize
    both sides. ``value_range``: lowest and highest value of training files of more than 8 bits; such a
    file is scaled from these to 0 to 255. None: there were none.
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
    value_range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _check_channels(self) -> ImageInput:
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError("value_range must be the lowest and the highest value")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError("mean and std need one number per channel")
        if any(s <= 0 for s in self.std):
            raise ValueError("std must be positive")
        if self.resize == "crop" and self.resize_size < max(self.height, self.width):
            raise ValueError("resize_size must be at least the cropped size")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), as the model sees one sample."""
        return (self.channels, self.height, self.width)

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """Normalised pixels (B, C, H, W)."""
        return (TensorSpec("input", "float32", ("batch", *self.shape)),)


class TextInput(InputSpec):
    """How a text becomes token ids; ``vocabulary[i]`` is the token of id i, padding is 0 at the end.

    ``tokenizer`` "word" splits into words and punctuation marks; "bpe" and "file", which came with
    pretrained weights, are described by ``merges``, the JSON of the tokenizers library. The first two
    begin with SPECIAL_TOKENS; in a file's vocabulary ``unknown`` may be any id, and 0 any token, since
    models go by the lengths. A text of more than ``max_length`` tokens is truncated.

    With ``pair`` a sample is two texts, of the columns in ``column`` ("premise,hypothesis"), encoded
    together and truncated together, the longer one first. With ``token_types`` the model is also given
    which of the two each token belongs to, 0 or 1, as the tokenizer says.
    """

    kind: Literal["text"] = "text"
    tokenizer: Literal["word", "bpe", "file"] = "word"
    vocabulary: tuple[str, ...] = Field(min_length=len(SPECIAL_TOKENS))
    merges: str | None = None
    unknown: int = Field(default=UNKNOWN, ge=0)
    lowercase: bool = True
    max_length: int = Field(ge=1)
    column: str | None = None
    pair: bool = False
    token_types: bool = False

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this minus 1."""
        return len(self.vocabulary)

    @property
    def shape(self) -> tuple[int]:
        """(T,) of the longest sample."""
        return (self.max_length,)

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """Token ids (B, T), padded with 0 at the end, and the true lengths (B,), each at least 1.

        With ``token_types`` these too (B, T), padded with 0.
        """
        tensors = (
            TensorSpec("tokens", "int64", ("batch", "length")),
            TensorSpec("lengths", "int64", ("batch",)),
        )
        return (*tensors, TensorSpec("types", "int64", ("batch", "length")))[: 2 + self.token_types]


class NumberColumn(Frozen):
    """A number: ``fill`` where missing, then sign(x) log(1+|x|) if ``log``, then (x - mean)/std.

    With ``indicator`` there is one more feature, 1 where the value is missing. ``format`` is how the
    cells are written, such as "1.234,5" or "%d/%m/%Y"; None for typed files and in older cards.
    With a ``period``, x becomes sin(2 pi (x / period + phase)) of the times of ``column``.
    ``minimum`` and ``maximum`` are those of the training rows. ``bin_edges``, ascending, divide the
    scaled numbers into bins of about equally many training rows, for models that ask for them.
    """

    name: str
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    fill: float = 0.0
    log: bool = False
    indicator: bool = False
    format: str | None = None
    column: str | None = None
    period: float = Field(default=0.0, ge=0)
    phase: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    bin_edges: tuple[float, ...] = ()

    @property
    def source(self) -> str:
        """The column of the table that the feature is read from."""
        return self.column or self.name


class CategoryColumn(Frozen):
    """A categorical column: ``values[i]`` has code i + 1; code 0 is missing or unseen in training."""

    name: str
    values: tuple[str, ...]

    @property
    def codes(self) -> int:
        """The number of codes, 0 included."""
        return len(self.values) + 1


class TabularInput(InputSpec):
    """How a row of a table becomes numbers: numeric features, missing indicators, category codes."""

    kind: Literal["tabular"] = "tabular"
    numbers: tuple[NumberColumn, ...] = ()
    categories: tuple[CategoryColumn, ...] = ()

    @model_validator(mode="after")
    def _check_columns(self) -> TabularInput:
        if not self.numbers and not self.categories:
            raise ValueError("a table needs at least one column besides the target")
        return self

    @property
    def features(self) -> int:
        """The number of numeric features, missing indicators included."""
        return len(self.numbers) + sum(column.indicator for column in self.numbers)

    def without_bins(self) -> TabularInput:
        """The same encoders without the bins of numbers."""
        numbers = tuple(column.model_copy(update={"bin_edges": ()}) for column in self.numbers)
        return self.model_copy(update={"numbers": numbers})

    @property
    def shape(self) -> tuple[int]:
        """(F + K,): the numeric features and the category codes."""
        return (self.features + len(self.categories),)

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """Rows (B, F + K); the last K columns are category codes, as whole numbers."""
        return (TensorSpec("columns", "float32", ("batch", *self.shape)),)


class SeriesScale(Frozen):
    """One of several series: its id, and its own mean and std by channel, empty where all share one."""

    id: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class SeriesInput(InputSpec):
    """How a series becomes a tensor (T, C): (x - mean)/std for each channel.

    ``length`` is the longest in training, or the window of a forecast. With ``varies`` the model also
    gets each sample's length; the steps after it are 0. A longer series is truncated at its end (at
    its beginning for a forecast).

    A table of several series is divided by the columns ``series_column`` (comma-separated); ``series``
    are those of training. Where each has a scale of its own, it is applied first, and ``mean`` and
    ``std`` are 0 and 1; the model's outputs are then scaled by series too.
    """

    kind: Literal["series"] = "series"
    channels: tuple[str, ...] = Field(min_length=1)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    length: int = Field(ge=1)
    varies: bool = False
    series_column: str | None = None
    series: tuple[SeriesScale, ...] = ()

    @model_validator(mode="after")
    def _check_channels(self) -> SeriesInput:
        scales = [one for one in self.series if one.mean or one.std]
        if scales and len(scales) < len(self.series):
            raise ValueError("either each of the series has a scale of its own, or none has")
        for mean, std in ((self.mean, self.std), *((one.mean, one.std) for one in scales)):
            if len(mean) != len(self.channels) or len(std) != len(self.channels):
                raise ValueError("mean and std need one number per channel")
            if any(s <= 0 for s in std):
                raise ValueError("std must be positive")
        return self

    @property
    def scaled_by_series(self) -> bool:
        """Whether each series has a scale of its own."""
        return any(one.mean for one in self.series)

    @property
    def shape(self) -> tuple[int, int]:
        """(T, C) of the longest sample."""
        return (self.length, len(self.channels))

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """Scaled values (B, T, C), and lengths (B,) where they vary."""
        channels = len(self.channels)
        if not self.varies:
            return (TensorSpec("values", "float32", ("batch", self.length, channels)),)
        return (
            TensorSpec("values", "float32", ("batch", "length", channels)),
            TensorSpec("lengths", "int64", ("batch",)),
        )


class PairsInput(InputSpec):
    """A source text and a target text, each with its own vocabulary."""

    kind: Literal["pairs"] = "pairs"
    source: TextInput
    target: TextInput

    @property
    def shape(self) -> tuple[int]:
        """(S,) of the longest source."""
        return (self.source.max_length,)

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """Source ids (B, S), their lengths (B,), and the target so far (B, T), START first."""
        return (
            TensorSpec("source", "int64", ("batch", "source_length")),
            TensorSpec("lengths", "int64", ("batch",)),
            TensorSpec("prefix", "int64", ("batch", "target_length")),
        )


def _input_of_kind(value: object) -> object:
    """Validate the fields of an input with the class of its kind."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind")
    spec = INPUTS.find(kind) if isinstance(kind, str) else None
    if spec is None:
        raise ValueError(f"no kind of data is called {kind!r}")
    return spec.model_validate(value)


class TargetNumber(Frozen):
    """A numeric target; the model's output is (y - mean)/std."""

    name: str
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)


class Thresholds(Frozen):
    """Probabilities from which a label is predicted, fitted to a ``metric`` on val ``samples``.

    ``values``: of two classes one, of the second class; of several labels one each.
    """

    values: tuple[float, ...] = Field(min_length=1)
    metric: str
    samples: int = Field(ge=1)

    @model_validator(mode="after")
    def _check_values(self) -> Thresholds:
        if not all(0 < value < 1 for value in self.values):
            raise ValueError("thresholds are probabilities above 0 and below 1")
        return self


class TaskSpec(Frozen):
    """The contract between data and model.

    Output by ``kind``: classification and multilabel: one logit per class; regression: one scaled
    number per target; forecast: (horizon, targets) scaled numbers; seq2seq: (T, target vocabulary)
    logits of the next token after each one of the prefix; embedding: a vector of ``embedding_size``
    numbers and length 1, near those of the same class. ``class_names`` of an embedding are the classes
    it was trained on. ``metrics`` name code of the user's by which it is measured too. ``thresholds``
    change which labels are predicted, no output and no probability.
    """

    kind: TaskKind = "classification"
    input: Annotated[SerializeAsAny[InputSpec], BeforeValidator(_input_of_kind)]
    class_names: tuple[str, ...] = ()
    targets: tuple[TargetNumber, ...] = ()
    horizon: int = Field(default=0, ge=0)
    embedding_size: int = Field(default=0, ge=0)
    metrics: tuple[str, ...] = ()
    thresholds: Thresholds | None = None

    @model_validator(mode="after")
    def _check_kind(self) -> TaskSpec:
        if self.kind == "classification" and len(self.class_names) < 2:
            raise ValueError("a classifier needs at least two classes")
        if self.kind == "multilabel" and not self.class_names:
            raise ValueError("multi-label needs at least one label")
        if self.kind in ("regression", "forecast") and not self.targets:
            raise ValueError(f"{self.kind} needs at least one target")
        if self.kind == "forecast" and (self.horizon < 1 or self.input.kind != "series"):
            raise ValueError("a forecast needs series and a horizon")
        if (self.kind == "seq2seq") != (self.input.kind == "pairs"):
            raise ValueError("seq2seq and pairs belong together")
        if (self.kind == "embedding") != (self.embedding_size > 0):
            raise ValueError("an embedding needs a size, and nothing else has one")
        if self.thresholds is not None and len(self.thresholds.values) != self.num_thresholds:
            raise ValueError("two classes have one threshold, several labels one each, all else none")
        return self

    @property
    def num_thresholds(self) -> int:
        """The number of thresholds that decide what is predicted; 0 where the largest output does."""
        if self.kind == "multilabel":
            return len(self.class_names)
        return int(self.kind == "classification" and len(self.class_names) == 2)

    def with_thresholds(self, thresholds: Thresholds | None) -> TaskSpec:
        """This task with other thresholds; without any a label is predicted from 0.5."""
        return self.model_copy(update={"thresholds": thresholds})

    @property
    def num_classes(self) -> int:
        """The number of classes or labels; 0 for tasks without any."""
        return len(self.class_names)

    @property
    def output_shape(self) -> tuple[int | str, ...]:
        """Shape of the output for one sample."""
        if self.kind == "embedding":
            return (self.embedding_size,)
        if self.class_names:
            return (len(self.class_names),)
        if self.kind == "regression":
            return (len(self.targets),)
        if self.kind == "forecast":
            return (self.horizon, len(self.targets))
        assert isinstance(self.input, PairsInput)
        return ("target_length", self.input.target.vocab_size)

    @property
    def num_outputs(self) -> int:
        """Output size for one sample (for one token in seq2seq): the width of the head."""
        size = 1
        for dim in self.output_shape:
            size *= dim if isinstance(dim, int) else 1
        return size

    @property
    def output(self) -> TensorSpec:
        """The output tensor. Its name is not that of an input, since a graph has one namespace."""
        # "embedding" is the name of torch's token look-up inside the same graph.
        name = "vectors" if self.kind == "embedding" else "numbers" if self.targets else "logits"
        return TensorSpec(name, "float32", ("batch", *self.output_shape))
