"""Columns that are sums or differences of others: a target of this kind needs no model.

N training rows, P numeric columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.base import Floats, Indices
from dlcli.data.notices import Notice
from dlcli.data.tables.cells import MAX_FINITE, as_numbers
from dlcli.data.tables.unused import is_number
from dlcli.wording import printable

if TYPE_CHECKING:
    import polars

_MAX_COLUMNS, _MAX_ROWS = 200, 2000
_MAX_SUMMED = 60  # columns that are each tried as a sum of the others
_ROWS_PER_COLUMN = 3  # at least
_MAX_MISSING = 0.2  # share of a column's cells
_TOLERANCE = 1e-6  # relative to the variance of the sum
_MAX_TERMS, _MAX_ELIMINATED = 6, 30
_LEAST_SHARE = 1e-3  # of the sum's std, for a column that counts


def target_relations(frame: polars.DataFrame, targets: Floats, names: Sequence[str]) -> list[Notice]:
    """Return a warning for each target (N, targets) that is a sum or difference of columns."""
    columns = _numeric(frame)
    notices = []
    for k, name in enumerate(names):
        terms = find_sum(columns, np.asarray(targets, dtype=np.float64).reshape(len(targets), -1)[:, k])
        if terms:
            message = f"the target {name!r} is {terms}: is each of them known at inference? "
            message += "--set data.drop=[NAME] leaves a column out"
            notices.append(Notice(message, "target-sum", "warning"))
    return notices


def column_sums(frame: polars.DataFrame) -> list[str]:
    """Return the columns that are sums or differences of others, such as ``a = b + c``, each once.

    None of tables with more numeric columns than can be tried in a second or two.
    """
    columns = _numeric(frame)
    if len(columns) > _MAX_SUMMED:
        return []
    sums: dict[frozenset[str], str] = {}
    for name, values in columns.items():
        others = {other: v for other, v in columns.items() if other != name}
        terms = _find_terms(others, values)
        group = frozenset([name, *terms])
        if len(terms) > 1 and group not in sums:
            sums[group] = f"{name} = {_spell(terms)}"
    return list(sums.values())


def find_sum(columns: dict[str, Floats], values: Floats) -> str:
    """Return the sum or difference of columns (N,) that equals ``values`` (N,), "" if none does."""
    terms = _find_terms(columns, values)
    return _spell(terms) if len(terms) > 1 else ""


def _find_terms(columns: dict[str, Floats], values: Floats) -> dict[str, int]:
    """Return the signs of the columns whose sum equals ``values``, up to a constant, or nothing."""
    step = -(-len(values) // _MAX_ROWS)
    rows = values[::step]
    if not columns or np.ptp(rows) == 0:
        return {}
    matrix = np.stack([column[::step] for column in columns.values()], axis=1)
    whole = np.isfinite(matrix).all(axis=1) & np.isfinite(rows)
    matrix, rows = matrix[whole], rows[whole]
    if len(rows) < max(10, _ROWS_PER_COLUMN * matrix.shape[1]) or np.ptp(rows) == 0:
        return {}
    matrix, rows = matrix - matrix.mean(axis=0), rows - rows.mean()
    scale = matrix.std(axis=0)
    chosen = np.flatnonzero(scale > 0)
    solution = _solve(matrix, rows, scale, chosen)
    if solution is None:
        return {}
    shares = np.abs(solution) * scale[chosen] / rows.std()
    chosen, shares = chosen[shares > _LEAST_SHARE], shares[shares > _LEAST_SHARE]
    # Without the columns that are not needed: others may be sums too, and then many solutions are exact.
    for column in chosen[np.argsort(shares)].tolist() if len(chosen) <= _MAX_ELIMINATED else ():
        fewer = chosen[chosen != column]
        if len(fewer) and _solve(matrix, rows, scale, fewer) is not None:
            chosen = fewer
    solution = _solve(matrix, rows, scale, chosen)
    if solution is None or len(chosen) > _MAX_TERMS:
        return {}
    signs = np.sign(solution)
    if np.abs(matrix[:, chosen] @ signs - rows).max(initial=0) > _LEAST_SHARE * rows.std():
        return {}
    names = list(columns)
    return {names[i]: int(sign) for i, sign in zip(chosen.tolist(), signs.tolist(), strict=True)}


def _solve(matrix: Floats, rows: Floats, scale: Floats, chosen: Indices) -> Floats | None:
    """Return the factors of the ``chosen`` columns whose sum equals ``rows`` (n,), None if none do."""
    if not len(chosen):
        return None
    columns = matrix[:, chosen]
    solution: Floats = np.linalg.lstsq(columns / scale[chosen], rows, rcond=None)[0] / scale[chosen]
    residual = float(np.square(columns @ solution - rows).mean())
    return solution if residual <= _TOLERANCE * rows.var() else None


def _numeric(frame: polars.DataFrame) -> dict[str, Floats]:
    """Return the numeric columns (N,) with few missing cells, NaN where missing or infinite."""
    columns: dict[str, Floats] = {}
    if sum(column.dtype.is_numeric() for column in frame.iter_columns()) > _MAX_COLUMNS:
        return {}
    for column in frame.iter_columns():
        if not is_number(column) or column.dtype.is_temporal():
            continue
        values = as_numbers(column)[0].fill_null(float("nan")).to_numpy()
        values = np.where(np.abs(values) < MAX_FINITE, values, np.nan)
        if np.isnan(values).mean() <= _MAX_MISSING:
            columns[column.name] = values
    return columns


def _spell(terms: dict[str, int]) -> str:
    """``a + b - c``."""
    ordered = sorted(terms, key=lambda name: -terms[name])
    text = " ".join(f"{'+' if terms[name] > 0 else '-'} {printable(name)}" for name in ordered)
    return text.removeprefix("+ ")
