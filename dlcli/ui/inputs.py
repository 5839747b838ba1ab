"""What a model takes, in words: one function for each kind of input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dlcli import wording
from dlcli.ui import text
from dlcli.ui.sections import Row, Section

if TYPE_CHECKING:
    from dlcli.task import (
        CategoryColumn,
        ImageInput,
        NumberColumn,
        PairsInput,
        SeriesInput,
        TabularInput,
        TaskSpec,
        TensorSpec,
        TextInput,
    )

MOST_ROWS = 30  # columns, channels or targets that are listed; --json has them all
_MOST_VALUES = 12
_RESIZE = {
    "crop": "shorter side to {size}, then the centre {height} x {width}",
    "squash": "both sides to {height} x {width}",
}


Tensor = tuple[str, str, tuple[int | str, ...]]  # name, type, dimensions


def input_sections(
    task: TaskSpec, taken: Sequence[Tensor] | None = None, given: Tensor | None = None
) -> list[Section]:
    """The input of a task: what is done to raw data, and the tensors that come of it.

    ``taken`` and ``given`` are a file's own tensors, where they differ from the task's.
    """
    facts, more = _DESCRIBE[task.input.kind](task.input)
    tensors = ", ".join(map(_tensor, taken or [parts_of(tensor) for tensor in task.input.signature]))
    rows = [Row("kind", task.input.kind), *facts, Row("tensors", tensors)]
    answer = Row("tensor", _tensor(given or parts_of(task.output)))
    return [Section("Input", rows), *more, Section("Output", [answer])]


def parts_of(tensor: TensorSpec) -> Tensor:
    """Its name, type and dimensions."""
    return tensor.name, tensor.dtype, tensor.dims


def _tensor(tensor: Tensor) -> str:
    name, dtype, dims = tensor
    return f"{name} {dtype} ({', '.join(map(str, dims))})"


def _image(spec: ImageInput) -> tuple[list[Row], list[Section]]:
    channels, height, width = spec.shape
    colour = "grey" if channels == 1 else "RGB"
    resize = _RESIZE[spec.resize].format(size=spec.resize_size, height=height, width=width)
    normalise = f"(x / 255 - mean) / std, mean {_numbers(spec.mean)}, std {_numbers(spec.std)}"
    return [
        Row("shape", f"{channels} x {height} x {width} (channels, height, width), {colour}"),
        Row("resize", f"{resize}, {spec.interpolation}"),
        Row("normalise", normalise),
    ], []


def _text(spec: TextInput) -> tuple[list[Row], list[Section]]:
    tokens = {"word": "words and punctuation marks", "bpe": "byte pairs"}[spec.tokenizer]
    case = "lower case" if spec.lowercase else "case kept"
    rows = [
        Row("tokens", f"{tokens}, {case}"),
        Row("vocabulary", wording.plural(spec.vocab_size, "entry")),
        Row("max length", f"{wording.plural(spec.max_length, 'token')}; a longer text loses its end"),
    ]
    return rows + ([Row("column", spec.column)] if spec.column else []), []


def _tabular(spec: TabularInput) -> tuple[list[Row], list[Section]]:
    what = [
        wording.plural(len(columns), noun)
        for columns, noun in ((spec.numbers, "number"), (spec.categories, "category"))
        if columns
    ]
    features = f"{wording.plural(spec.shape[0], 'feature')}, missing indicators included"
    facts = [Row("columns", ", ".join(what)), Row("row", features)]
    return facts, [
        Section("Numbers", _some(spec.numbers, _number_column)),
        Section("Categories", _some(spec.categories, _category_column)),
    ]


def _number_column(column: NumberColumn) -> Row:
    said = f"mean {text.number(column.mean)}, std {text.number(column.std)}"
    if column.log:
        said += " after sign(x) log(1 + |x|)"
    said += f"; missing becomes {text.number(column.fill)}"
    return Row(text.key(column.name), said + (", with an indicator" if column.indicator else ""))


def _category_column(column: CategoryColumn) -> Row:
    values = wording.listed(column.values, _MOST_VALUES)
    return Row(text.key(column.name), f"{wording.plural(len(column.values), 'value')}: {values}")


def _series(spec: SeriesInput) -> tuple[list[Row], list[Section]]:
    steps = wording.plural(spec.length, "step")
    length = f"up to {steps}; a longer series is cut" if spec.varies else steps
    channels = _some(list(zip(spec.channels, spec.mean, spec.std, strict=True)), _channel)
    facts = [Row("length", length), Row("channels", wording.count(len(spec.channels)))]
    return facts, [Section("Channels", channels)]


def _channel(channel: tuple[str, float, float]) -> Row:
    name, mean, std = channel
    return Row(text.key(name), f"mean {text.number(mean)}, std {text.number(std)}")


def _pairs(spec: PairsInput) -> tuple[list[Row], list[Section]]:
    return [], [Section("Source", _text(spec.source)[0]), Section("Target", _text(spec.target)[0])]


# Each is given the input of its own kind.
_DESCRIBE: dict[str, Callable[[Any], tuple[list[Row], list[Section]]]] = {
    "image": _image,
    "text": _text,
    "tabular": _tabular,
    "series": _series,
    "pairs": _pairs,
}


def _some(columns: Any, row: Any) -> list[Row]:
    """A row for each, up to `MOST_ROWS`; then how many more there are."""
    rows = [row(column) for column in columns[:MOST_ROWS]]
    more = len(columns) - MOST_ROWS
    return rows + ([Row("", f"and {wording.count(more)} more")] if more > 0 else [])


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
