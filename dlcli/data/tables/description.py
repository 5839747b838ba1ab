"""Description of a table input."""

from __future__ import annotations

from dlcli import wording
from dlcli.data.kinds import Description
from dlcli.notation.numbers import PLAIN
from dlcli.task import CategoryColumn, NumberColumn, TabularInput

_MAX_LISTED_VALUES = 12


def describe(spec: TabularInput) -> Description:
    """Describe the number of columns and the encoding of each."""
    counts = [
        wording.plural(len(columns), noun)
        for columns, noun in ((spec.numbers, "number"), (spec.categories, "category"))
        if columns
    ]
    features = f"{wording.plural(spec.shape[0], 'feature')}, missing indicators included"
    return Description(
        (("columns", ", ".join(counts)), ("row", features)),
        (
            ("Numbers", tuple((column.name, _number(column)) for column in spec.numbers)),
            ("Categories", tuple((column.name, _category(column)) for column in spec.categories)),
        ),
    )


def _number(column: NumberColumn) -> str:
    if column.period:
        return (
            f"{'cosine' if column.phase else 'sine'} of the times of {wording.printable(column.source)}"
        )
    text = f"mean {wording.number(column.mean)}, std {wording.number(column.std)}"
    if column.log:
        text += " after sign(x) log(1 + |x|)"
    text += f"; missing becomes {wording.number(column.fill)}"
    text += ", with an indicator" if column.indicator else ""
    return text + (f"; written {column.format}" if column.format not in (None, PLAIN) else "")


def _category(column: CategoryColumn) -> str:
    values = wording.listed(column.values, _MAX_LISTED_VALUES)
    return f"{wording.plural(len(column.values), 'value')}: {values}"
