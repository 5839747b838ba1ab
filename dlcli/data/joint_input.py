"""One encoding for models whose encoders were fitted on different samples, as those of folds are.

The joint encoding loses nothing that one of the models needs, so that each gets its own input from it by
products, sums and look-ups (`dlcli.zoo.recode`): inside a graph, without the raw data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlcli.data.tensors.spec import TensorInput
from dlcli.errors import UsageError
from dlcli.task import CategoryColumn, InputSpec, NumberColumn, SeriesInput, TabularInput, TextInput


def joint_input(specs: Sequence[InputSpec]) -> InputSpec:
    """The encoding from which each of ``specs`` follows; the first where all are equal.

    Raises: UsageError saying what differs, where there is none.
    """
    first = specs[0]
    if all(spec == first for spec in specs):
        return first
    join = _JOINS.get(first.kind)
    if join is None or len({spec.kind for spec in specs}) > 1:
        raise _different(f"there is no joint encoding of {first.kind} data")
    return join(specs)


def _join_images(specs: Sequence[InputSpec]) -> InputSpec:
    # Mean and std are undone in the graph; whatever comes before them acts on pixels.
    return _equal_but(specs, "mean", "std")


def _join_tensors(specs: Sequence[InputSpec]) -> InputSpec:
    parts = [spec.tensors for spec in specs if isinstance(spec, TensorInput)]
    if len({tuple((p.name, p.dtype, p.shape, p.pixels) for p in one) for one in parts}) > 1:
        raise _different("their tensors differ")
    joined = [
        same[0].model_copy(update={"low": min(p.low for p in same), "high": max(p.high for p in same)})
        for same in zip(*parts, strict=True)
    ]
    return specs[0].model_copy(update={"tensors": tuple(joined)})


def _join_series(specs: Sequence[InputSpec]) -> InputSpec:
    series = [spec for spec in specs if isinstance(spec, SeriesInput)]
    if any(one.scaled_by_series for one in series):
        raise _different("each of their series has a scale of its own")
    return _equal_but(specs, "mean", "std", "series")


def _join_texts(specs: Sequence[InputSpec]) -> InputSpec:
    texts = [spec for spec in specs if isinstance(spec, TextInput)]
    if any(text.tokenizer != "word" for text in texts):
        raise _different("their tokenizers were fitted on other texts, and give other pieces of words")
    joined = _equal_but(specs, "vocabulary")
    # All begin with the special tokens, so padding stays 0.
    words = dict.fromkeys(word for text in texts for word in text.vocabulary)
    return joined.model_copy(update={"vocabulary": tuple(words)})


def _join_tables(specs: Sequence[InputSpec]) -> InputSpec:
    tables = [spec for spec in specs if isinstance(spec, TabularInput)]
    for what in ("numbers", "categories"):
        names = [[column.name for column in getattr(table, what)] for table in tables]
        if any(own != names[0] for own in names):
            odd = sorted(set.symmetric_difference(*map(set, _first_different(names))))
            raise _different(f"not all of them read the same columns as {what}: {', '.join(odd[:5])}")
    return tables[0].model_copy(
        update={
            "numbers": tuple(
                _join_numbers(same) for same in zip(*(t.numbers for t in tables), strict=True)
            ),
            "categories": tuple(
                CategoryColumn(
                    name=same[0].name,
                    values=tuple(dict.fromkeys(value for column in same for value in column.values)),
                )
                for same in zip(*(t.categories for t in tables), strict=True)
            ),
        }
    )


def _join_numbers(columns: Sequence[NumberColumn]) -> NumberColumn:
    """A column that says where it is missing, if the models fill it with different numbers."""
    first = columns[0]
    for name in ("log", "format", "column", "period", "phase"):
        if any(getattr(column, name) != getattr(first, name) for column in columns):
            raise _different(f"not all of them take {name!r} of the column {first.name!r} alike")
    lows = [column.minimum for column in columns if column.minimum is not None]
    highs = [column.maximum for column in columns if column.maximum is not None]
    return first.model_copy(
        update={
            "indicator": any(column.indicator or column.fill != first.fill for column in columns),
            "minimum": min(lows) if lows else None,
            "maximum": max(highs) if highs else None,
        }
    )


def _equal_but(specs: Sequence[InputSpec], *fields: str) -> InputSpec:
    """The first of specs that differ in ``fields`` at most. Raises: UsageError."""
    first = specs[0]
    for name in type(first).model_fields:
        values = [getattr(spec, name) for spec in specs]
        if name not in fields and any(value != values[0] for value in values):
            shown = ", ".join(dict.fromkeys(str(value) for value in values))
            raise _different(f"{name} differs: {shown[:100]}")
    return first


def _first_different(names: Sequence[list[str]]) -> tuple[list[str], list[str]]:
    return names[0], next(own for own in names if own != names[0])


def _different(reason: str) -> UsageError:
    return UsageError(f"these models cannot be one file: {reason}")


_JOINS: dict[str, Callable[[Sequence[InputSpec]], InputSpec]] = {
    "image": _join_images,
    "tensor": _join_tensors,
    "series": _join_series,
    "text": _join_texts,
    "tabular": _join_tables,
}
