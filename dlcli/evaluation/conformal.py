"""Intervals around predicted numbers by split conformal prediction. No torch here.

An interval is the prediction plus and minus a quantile of the absolute errors on n samples that the
model was not fitted to. Where these and a new sample are exchangeable, it contains the true value of the
new one with at least the probability that was asked for, whatever the model: Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World" (2005); Lei et al., arXiv:1604.04173, algorithm 2. The
probability is over both: of one val split the coverage varies around it. N samples, R targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.card import Card
from dlcli.config import EvalConfig
from dlcli.data.base import Inputs, Reader
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.eval_data import eval_data
from dlcli.evaluation.evaluate import batches, check_counted, default_batch_size
from dlcli.evaluation.intervals import wilson
from dlcli.evaluation.metrics import make_counts
from dlcli.evaluation.metrics.base import Floats, IntervalRow
from dlcli.evaluation.predict import Prediction, unscale
from dlcli.events import Emit, ignore
from dlcli.formats.base import Outputs
from dlcli.runs.folder import run_of
from dlcli.task import TaskSpec


def absolute_errors(
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    split: str,
    emit: Emit = ignore,
) -> Floats:
    """The absolute errors of a regression, (N, R), in the data's units, of all readable samples.

    Raises: DlcliError where none can be read or an output is not finite.
    """
    errors = [
        np.abs(unscale(predict(inputs), task) - reader.targets(indices))
        for inputs, indices in batches(reader, default_batch_size(task), split, emit)
    ]
    if not errors:
        check_counted(make_counts(task), reader, split)  # says why
    together = np.concatenate(errors)
    if not np.isfinite(together).all():
        raise DlcliError(
            f"some outputs of the {split} split are NaN or infinite: there are no intervals"
        )
    return together


@dataclass(frozen=True)
class Intervals:
    """Half the widths, (R,), of intervals for a ``coverage``, from the errors of ``samples``."""

    coverage: Fraction
    half_widths: Floats
    samples: int

    def words(self) -> str:
        """What they are, and what they assume."""
        return (
            f"{percent(self.coverage)} intervals, by the errors of {self.samples:,} val samples: they "
            "hold the true value that often where new samples come from the same distribution as val"
        )


def fit_intervals(
    predict: Callable[[Inputs], Outputs],
    card: Card,
    artifact: Path,
    config: EvalConfig,
    coverage: Fraction,
    emit: Emit = ignore,
) -> Intervals:
    """The intervals around predictions of an artifact by the errors on the val split of its run.

    Raises: UsageError where the model is no regression or its val split is not known; DlcliError.
    """
    kind = card.task.kind
    if kind != "regression":
        raise UsageError(f"--intervals is for regression, and this model does {kind}")
    if run_of(artifact) is None:
        raise UsageError(
            f"--intervals: {artifact} lies in no run, which would know what its val split is",
            hint="name the run, or a file in its folder",
        )
    data = eval_data(card, artifact, config.model_copy(update={"split": "val"}))
    errors = absolute_errors(predict, data.reader, card.task, "val", emit)
    return Intervals(coverage, half_widths(errors, coverage), len(errors))


def half_widths(errors: Floats, coverage: Fraction) -> Floats:
    """Half the widths of intervals, (R,), from the absolute errors of the val split (n, R).

    They are the ceil((n + 1) * coverage)-th smallest of them. Raises: DlcliError where n is too small
    for the coverage: the intervals would have no end.
    """
    samples = len(errors)
    rank = math.ceil((samples + 1) * coverage)
    if rank > samples:
        needed = math.ceil(coverage / (1 - coverage))
        raise DlcliError(
            f"--intervals {percent(coverage)} needs {needed} or more val samples; there are {samples}",
            hint="ask for a lower coverage, or hold out more: train with a larger --val-fraction",
        )
    widths: Floats = np.sort(errors, axis=0)[rank - 1]
    return widths


def coverage_rows(errors: Floats, intervals: Intervals, task: TaskSpec) -> tuple[IntervalRow, ...]:
    """How many of the samples with these ``errors`` (N, R) the intervals of each target contain."""
    rows = []
    widths = intervals.half_widths.tolist()
    for target, own, width in zip(task.targets, errors.T, widths, strict=True):
        inside = int((own <= width).sum())
        share, (low, high) = inside / len(own), wilson(inside, len(own))
        rows.append(
            IntervalRow(
                name=target.name,
                coverage=float(intervals.coverage),
                half_width=width,
                val_samples=intervals.samples,
                covered=share,
                low=low,
                high=high,
            )
        )
    return tuple(rows)


def with_intervals(predictions: Iterable[Prediction], half_widths: Floats) -> Iterator[Prediction]:
    """The same predictions with ``low`` and ``high`` after the values, as these are named."""
    for prediction in predictions:
        rows = tuple({**row, **_bounds(row, half_widths.tolist())} for row in prediction.rows)
        yield replace(prediction, rows=rows)


def _bounds(row: Mapping[str, Any], widths: list[float]) -> dict[str, Any]:
    if "values" not in row:
        return {"low": row["value"] - widths[0], "high": row["value"] + widths[0]}
    values = list(zip(row["values"].items(), widths, strict=True))
    return {
        "low": {name: value - width for (name, value), width in values},
        "high": {name: value + width for (name, value), width in values},
    }


def percent(coverage: Fraction) -> str:
    """``90%``."""
    return f"{float(100 * coverage):g}%"
