"""The contract between data and model: what one sample is as tensors, and what the model answers.

Everything that was fitted on the training split (vocabularies, means, class names) is in here, so a
card that holds a `TaskSpec` can turn raw data into the model's input anywhere. JSON only, no code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
TaskKind = Literal["classification", "multilabel", "regression", "forecast", "seq2seq", "embedding"]
InputKind = Literal["image", "text", "tabular", "series", "pairs"]

# The first entries of every vocabulary.
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")
PAD, UNKNOWN, START, END = range(4)


class Frozen(BaseModel):
    """Immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output tensor of a model. A dimension that varies has a name instead of a size."""

    name: str
    dtype: Literal["float32", "int64"]
    dims: tuple[int | str, ...]


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

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """Normalised pixels (B, C, H, W)."""
        return (TensorSpec("input", "float32", ("batch", *self.shape)),)


class TextInput(Frozen):
    """How a text becomes token ids: PAD is 0, UNKNOWN 1; ``vocabulary[i]`` is the token of id i.

    ``tokenizer`` "word" splits into words and punctuation marks; "bpe" is described by ``merges``, the
    JSON of the tokenizers library. A text of more than ``max_length`` tokens loses its end.
    """

    kind: Literal["text"] = "text"
    tokenizer: Literal["word", "bpe"] = "word"
    vocabulary: tuple[str, ...] = Field(min_length=len(SPECIAL_TOKENS))
    merges: str | None = None
    lowercase: bool = True
    max_length: int = Field(ge=1)
    column: str | None = None

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
        """Token ids (B, T), padded with PAD at the end, and the true lengths (B,), each at least 1."""
        return (
            TensorSpec("tokens", "int64", ("batch", "length")),
            TensorSpec("lengths", "int64", ("batch",)),
        )


class NumberColumn(Frozen):
    """A numeric column: missing is ``fill``, then sign(x) log(1+|x|) if ``log``, then (x - mean)/std.

    With ``indicator``, one more feature says 1 where the value was missing.
    """

    name: str
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    fill: float = 0.0
    log: bool = False
    indicator: bool = False


class CategoryColumn(Frozen):
    """A column of words: ``values[i]`` has code i + 1; code 0 is missing, or never seen in training."""

    name: str
    values: tuple[str, ...]

    @property
    def codes(self) -> int:
        """How many codes there are, 0 included."""
        return len(self.values) + 1


class TabularInput(Frozen):
    """How a row becomes numbers: numeric features, then missing indicators, then category codes."""

    kind: Literal["tabular"] = "tabular"
    numbers: tuple[NumberColumn, ...] = ()
    categories: tuple[CategoryColumn, ...] = ()

    @model_validator(mode="after")
    def _some_column(self) -> TabularInput:
        if not self.numbers and not self.categories:
            raise ValueError("a table needs at least one column beside the target")
        return self

    @property
    def features(self) -> int:
        """Numeric features: the numbers and their missing indicators."""
        return len(self.numbers) + sum(column.indicator for column in self.numbers)

    @property
    def shape(self) -> tuple[int]:
        """(F + K,): the numeric features and the category codes."""
        return (self.features + len(self.categories),)

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """One row a sample (B, F + K); codes are whole numbers in the last K columns."""
        return (TensorSpec("columns", "float32", ("batch", *self.shape)),)


class SeriesInput(Frozen):
    """How a series becomes a tensor (T, C): (x - mean)/std for each channel.

    ``length`` is the longest in training, or the window of a forecast. With ``varies`` the model also
    gets each sample's true length; steps behind it are 0. A longer series loses its end (a forecast's
    its beginning).
    """

    kind: Literal["series"] = "series"
    channels: tuple[str, ...] = Field(min_length=1)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    length: int = Field(ge=1)
    varies: bool = False

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> SeriesInput:
        if len(self.mean) != len(self.channels) or len(self.std) != len(self.channels):
            raise ValueError("mean and std need one number a channel")
        if any(s <= 0 for s in self.std):
            raise ValueError("std must be positive")
        return self

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


class PairsInput(Frozen):
    """A text to read and a text to write, each with its own vocabulary."""

    kind: Literal["pairs"] = "pairs"
    source: TextInput
    target: TextInput

    @property
    def shape(self) -> tuple[int]:
        """(S,) of the longest source."""
        return (self.source.max_length,)

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """Source ids (B, S), their lengths (B,), and what is written so far (B, T), START first."""
        return (
            TensorSpec("source", "int64", ("batch", "source_length")),
            TensorSpec("lengths", "int64", ("batch",)),
            TensorSpec("prefix", "int64", ("batch", "target_length")),
        )


InputSpec = Annotated[
    ImageInput | TextInput | TabularInput | SeriesInput | PairsInput, Field(discriminator="kind")
]


class TargetNumber(Frozen):
    """A number to predict: the model answers (y - mean)/std."""

    name: str
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)


class TaskSpec(Frozen):
    """The contract between data and model.

    Answers by ``kind``: classification and multilabel: one logit for each of ``class_names``;
    regression: one scaled number for each of ``targets``; forecast: (horizon, targets) scaled numbers;
    seq2seq: (T, target vocabulary) logits of the next token after each of the prefix; embedding:
    ``embedding_size`` numbers, a vector of length 1 that lies near those of the same class, where
    ``class_names`` are the classes it was learnt from.
    """

    kind: TaskKind = "classification"
    input: InputSpec
    class_names: tuple[str, ...] = ()
    targets: tuple[TargetNumber, ...] = ()
    horizon: int = Field(default=0, ge=0)
    embedding_size: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> TaskSpec:
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
        return self

    @property
    def num_classes(self) -> int:
        """The number of classes or labels, in the order of the names; 0 for tasks without any."""
        return len(self.class_names)

    @property
    def output_shape(self) -> tuple[int | str, ...]:
        """The model's answer for one sample."""
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
        """Numbers in the answer for one sample (one token's logits for seq2seq): the head's width."""
        size = 1
        for dim in self.output_shape:
            size *= dim if isinstance(dim, int) else 1
        return size

    @property
    def output(self) -> TensorSpec:
        """The model's answer for a batch. Its name is none of the inputs': a graph has one namespace."""
        # "embedding" is what torch calls a look-up of tokens, inside the same graph.
        name = "vectors" if self.kind == "embedding" else "numbers" if self.targets else "logits"
        return TensorSpec(name, "float32", ("batch", *self.output_shape))
