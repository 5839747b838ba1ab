"""Pairs of texts, for one prediction each: one string with a tab between the two.

So whatever handles texts handles pairs; only encoding and reading divide them. Tables have each text in
a column of its own, and `data.text` names both: ``premise,hypothesis``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from dlcli.data.base import Listed
from dlcli.data.tables.frames import looks_like_text
from dlcli.errors import DlcliError, UsageError
from dlcli.task import END, TextInput
from dlcli.wording import listed, shorten

if TYPE_CHECKING:
    import polars

SEPARATOR = "\t"
HINT = "a pair is two texts with a tab between them, or a row of a table with both columns"
# Names of two columns without a common stem; others differ in a last 1 and 2, or A and B.
_NAMED = (("premise", "hypothesis"),)
_FIRST = re.compile(r"(.*\D)(1|a)", re.I)
_SECOND = {"1": "2", "a": "b", "A": "B"}


class TextPairs(Listed):
    """Pairs of texts, each joined by a tab."""


class Encoded(NamedTuple):
    """A text or a pair as token ``ids`` and their ``types``, (T,) each; ``whole`` are all its ids.

    Special tokens are among both; only ``ids`` and ``types`` are truncated.
    """

    ids: list[int]
    types: list[int]
    whole: list[int]


def join(first: str, second: str) -> str:
    """The pair of two texts; tabs inside them become spaces."""
    return SEPARATOR.join(text.replace(SEPARATOR, " ") for text in (first, second))


def divide(text: str) -> tuple[str, str]:
    """The two texts of a pair. Raises: DlcliError where there are not two."""
    reason = why_no_pair(text)
    if reason is not None:
        raise DlcliError(reason, hint=HINT)
    first, _, second = text.partition(SEPARATOR)
    return first, second


def why_no_pair(text: str) -> str | None:
    """Why a text is no pair: it is one text, or there are more than two; None where it is one."""
    parts = text.split(SEPARATOR)
    if len(parts) == 2:
        return None
    if len(parts) == 1:
        return f"{shorten(text, 60)!r} is one text, and the model takes pairs (a tab between the two)"
    shown = listed([repr(shorten(part, 20)) for part in parts], 4)
    return f"{shown} are {len(parts)} texts with tabs between them, and the model takes pairs"


def column_names(setting: str, columns: Sequence[str] = ()) -> tuple[str, ...]:
    """The names in `data.text`: of a column, or of the two columns of a pair.

    The name of one of the ``columns`` may contain a comma. Raises: UsageError for more than two.
    """
    if setting in columns:
        return (setting,)
    names = tuple(name.strip() for name in setting.split(","))
    if len(names) > 2 or len(set(names)) < len(names) or not all(names):
        raise UsageError(
            f"data.text = {setting} names {len(names)} columns",
            hint="give the column of a text, or the two of a pair: data.text=premise,hypothesis",
        )
    return names


def columns_of(spec: TextInput) -> tuple[str, ...]:
    """The columns of a model's texts: one, the two of a pair, or none where no table was read."""
    if spec.column is None:
        return ()
    return column_names(spec.column) if spec.pair else (spec.column,)


def pair_columns(frame: polars.DataFrame) -> tuple[str, str] | None:
    """The two columns of a pair, by usual names and contents that are text; None without them."""
    by_lower = {name.lower(): name for name in frame.columns if "," not in name}
    named = [(by_lower.get(first), by_lower.get(second)) for first, second in _NAMED]
    for name in by_lower.values():
        match = _FIRST.fullmatch(name)
        if match is not None:
            named.append((name, by_lower.get(f"{match[1]}{_SECOND[match[2]]}".lower())))
    for first, second in named:
        if first is None or second is None:
            continue
        # A premise has several hypotheses, so its cells repeat.
        if all(looks_like_text(frame[name], distinct=False) for name in (first, second)):
            return first, second
    return None


def truncated_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text of a pair fit into ``room``: the longer one is truncated first.

    The same as "longest_first" of the tokenizers library.
    """
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    longer = max(0, room - shorter)
    return (longer, shorter) if first > second else (shorter, longer)


def separated(first: list[int], second: list[int], limit: int) -> Encoded:
    """The pair of two texts' ids with END between them, for tokenizers that know no pairs."""
    lengths = truncated_lengths(len(first), len(second), limit - 1)
    ids = [*first[: lengths[0]], END, *second[: lengths[1]]]
    return Encoded(ids, [0] * len(ids), [*first, END, *second])
