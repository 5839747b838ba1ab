"""The input of a table in words."""

from __future__ import annotations

from dlcli import wording
from dlcli.data.kinds import Description
from dlcli.task import CategoryColumn, NumberColumn, TabularInput

_MOST_VALUES = 12


def describe(spec: TabularInput) -> Description:
    """How many columns there are, and the encoding of each."""
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
    words = f"mean {wording.number(column.mean)}, std {wording.number(column.std)}"
    if column.log:
        words += " after sign(x) log(1 + |x|)"
    words += f"; missing becomes {wording.number(column.fill)}"
    return words + (", with an indicator" if column.indicator else "")


def _category(column: CategoryColumn) -> str:
    values = wording.listed(column.values, _MOST_VALUES)
    return f"{wording.plural(len(column.values), 'value')}: {values}"
