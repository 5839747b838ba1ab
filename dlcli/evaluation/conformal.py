"""Intervals around predicted numbers by split conformal prediction. No torch here.

An interval is the prediction plus and minus a quantile of the absolute errors on n samples that the
model was not fitted to. Where these and a new sample are exchangeable, it contains the true value of the
new one with at least the probability that was asked for, whatever the model: Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World" (2005); Lei et al., arXiv:1604.04173, algorithm 2. The
probability is over both: of one val split the coverage varies around it.

Of a forecast the samples are windows, and each step of the horizon has errors of its own, which may be
larger where the window varies more. So errors are also divided by the standard deviation of the target
in the window, as in normalised conformal prediction (Papadopoulos, Gammerman and Vovk, 2008); each
target has of the two kinds of intervals that with the better interval score on val (Gneiting and
Raftery, J. Am. Stat. Assoc. 102, 2007). Windows overlap and follow each other in time, so they are not
exchangeable: nothing is guaranteed there, and what the intervals contain is measured. No window of val
predicts a row of test.

N samples, R targets, H steps of a forecast, which others do not have: ([H,] R) is the shape of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlcli.card import Card
from dlcli.config import EvalConfig
from dlcli.config.bounds import parse_coverage
from dlcli.data.base import Inputs, Reader
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.ensemble import Ensemble
from dlcli.evaluation.eval_data import EvalData, eval_data
from dlcli.evaluation.evaluate import batches, check_counted, default_batch_size
from dlcli.evaluation.intervals import paired_bootstrap, wilson
from dlcli.evaluation.metrics import make_counts
from dlcli.evaluation.metrics.base import Floats, IntervalRow, IntervalStep
from dlcli.evaluation.predict import unscale
from dlcli.events import Emit, ignore
from dlcli.formats.base import Outputs
from dlcli.runs.folder import run_of
from dlcli.task import SeriesInput, TaskSpec

NUMBERS = ("regression", "forecast")  # the tasks whose predictions have intervals
MAX_ERRORS = 2**24  # held at a time, 128 MiB, and some copies; of more samples only some are used
_LEAST_STD = 0.1  # of a window, in stds of the target in training: constant windows divide errors too


def absolute_errors(
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    split: str,
    emit: Emit = ignore,
) -> Iterator[tuple[Floats, Inputs]]:
    """The absolute errors of numbers, batch after batch (n, [H,] R), of all readable samples.

    With each batch come its inputs. In the data's units, or where each of several series has a scale of
    its own, in that scale. Raises: DlcliError where no sample can be read or an output is not finite.
    """
    counted = 0
    for inputs, indices in batches(reader, default_batch_size(task), split, emit):
        errors = np.abs(unscale(predict(inputs), task) - reader.targets(indices))
        if not np.isfinite(errors).all():
            raise DlcliError(
                f"some outputs of the {split} split are NaN or infinite: there are no intervals"
            )
        counted += len(errors)
        yield errors, inputs
    if not counted:
        check_counted(make_counts(task), reader, split)  # says why


def window_std(inputs: Inputs, task: TaskSpec) -> Floats:
    """The standard deviation of each target in the window of a forecast (n, 1, R), in its units."""
    spec = task.input
    assert isinstance(spec, SeriesInput)
    values = inputs[0][:, :, [spec.channels.index(target.name) for target in task.targets]]
    scaled = np.hypot(values.std(axis=1, keepdims=True, dtype=np.float64), _LEAST_STD)
    return scaled * np.array([target.std for target in task.targets])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Intervals:
    """Half the widths, ([H,] R), of intervals for a ``coverage``, from the errors of ``samples``.

    Those of targets that are ``by_window`` (R,) are multiples of `window_std`.
    """

    coverage: Fraction
    half_widths: Floats
    samples: int
    by_window: npt.NDArray[np.bool_]

    def around(self, inputs: Inputs, task: TaskSpec) -> Floats:
        """Half the widths around the predictions for a batch: ([H,] R), or of each sample (n, H, R)."""
        if not self.by_window.any():
            return self.half_widths
        scale = np.where(self.by_window, window_std(inputs, task), 1.0)
        return self.half_widths * scale

    def words(self) -> str:
        """What they are, and what they assume."""
        if self.half_widths.ndim > 1:
            wider = " (wider where the window varies more)" if self.by_window.any() else ""
            return (
                f"{percent(self.coverage)} intervals, of each step by the errors of {self.samples:,} "
                f"val windows{wider}: they hold the true value about that often where errors stay as "
                "large as on val; windows overlap and times change, so nothing guarantees it"
            )
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
    if kind not in NUMBERS:
        raise UsageError(f"--intervals is for regression and forecasts, and this model does {kind}")
    if run_of(artifact) is None:
        raise UsageError(
            f"--intervals: {artifact} lies in no run, which would know what its val split is",
            hint="name the run, or a file in its folder",
        )
    data = eval_data(card, artifact, config.model_copy(update={"split": "val"}))
    every = -(-len(data.reader) * card.task.num_outputs // MAX_ERRORS)
    parts, scales, seen = [], [], 0
    for errors, inputs in absolute_errors(predict, data.reader, card.task, "val", emit):
        some = slice(-seen % every, None, every)  # of all samples every k-th, k = ``every``
        parts.append(errors[some])
        if kind == "forecast":
            scales.append(window_std(inputs, card.task)[some])
        seen += len(errors)
    return best_intervals(np.concatenate(parts), np.concatenate(scales) if scales else None, coverage)


def best_intervals(errors: Floats, scales: Floats | None, coverage: Fraction) -> Intervals:
    """The intervals by absolute errors (n, [H,] R), of windows of the scales (n, 1, R) or of others.

    Raises: DlcliError where n is too small for the coverage.
    """
    widths = half_widths(errors, coverage)
    by_window = np.zeros(widths.shape[-1], dtype=bool)
    if scales is not None:
        multiples = half_widths(errors / scales, coverage)
        scores = [_interval_score(errors, each, coverage) for each in (widths, multiples * scales)]
        by_window = scores[1] < scores[0]
        widths = np.where(by_window, multiples, widths)
    return Intervals(coverage, widths, len(errors), by_window)


def _interval_score(errors: Floats, widths: Floats, coverage: Fraction) -> Floats:
    """The mean interval score of each target (R,): less is better. ``widths`` are halves ([n,] H, R)."""
    outside = np.maximum(errors - widths, 0.0)
    scores: Floats = 2 * (widths + outside / float(1 - coverage)).mean(axis=(0, 1))
    return scores


def half_widths(errors: Floats, coverage: Fraction) -> Floats:
    """Half the widths of intervals, ([H,] R), from the absolute errors of the val split (n, [H,] R).

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


def measure_intervals(
    ensemble: Ensemble, data: EvalData, config: EvalConfig, emit: Emit = ignore
) -> tuple[Intervals, tuple[IntervalRow, ...]]:
    """Fit the intervals of ``config`` on val, and count the true values of ``data`` that they contain.

    Both are returned. The ensemble is of one model. Raises: UsageError, DlcliError.
    """
    assert config.intervals is not None
    if data.own and data.split in ("val", "all"):
        raise UsageError(
            f"--intervals: they are fitted to the errors on val, which {data.split} has",
            hint="measure what they contain on other samples: --split test",
        )
    model, coverage = ensemble.members[0], parse_coverage(config.intervals)
    # The val split is the run's own; --data is what the coverage is measured on.
    own = config if data.own else config.model_copy(update={"data": None})
    fitted = fit_intervals(ensemble.predict, model.card, model.path, own, coverage, emit)
    task = model.card.task
    errors = absolute_errors(ensemble.predict, data.reader, task, data.split, emit)
    return fitted, coverage_rows(errors, fitted, task)


def coverage_rows(
    errors: Iterable[tuple[Floats, Inputs]], intervals: Intervals, task: TaskSpec
) -> tuple[IntervalRow, ...]:
    """The share of true values that the intervals of each target contain.

    ``errors`` are the batches of `absolute_errors` of a split. The share's own interval is Wilson's; of
    a forecast, whose steps and windows depend on each other, that of a bootstrap of blocks of windows.
    """
    shape = intervals.half_widths.shape
    shares, by_step, widths = [], np.zeros(shape), np.zeros(shape)
    for batch, inputs in errors:
        around = np.broadcast_to(intervals.around(inputs, task), batch.shape)
        inside = batch <= around
        shares.append(inside.reshape(len(batch), -1, shape[-1]).mean(axis=1))
        by_step += inside.sum(axis=0)
        widths += around.sum(axis=0)
    by_sample = np.concatenate(shares)  # (N, R)
    by_step /= len(by_sample)
    widths /= len(by_sample)
    rows = []
    for index, target in enumerate(task.targets):
        own = by_sample[:, index]
        share = float(own.mean())
        steps: tuple[IntervalStep, ...] = ()
        if len(shape) == 1:
            low, high = wilson(int(own.sum()), len(own))
        else:
            low, high = paired_bootstrap(own, np.zeros_like(own), block=task.horizon)
            pairs = zip(widths[:, index].tolist(), by_step[:, index].tolist(), strict=True)
            steps = tuple(IntervalStep(step, *pair) for step, pair in enumerate(pairs, 1))
        rows.append(
            IntervalRow(
                name=target.name,
                coverage=float(intervals.coverage),
                half_width=float(widths[..., index].mean()),
                val_samples=intervals.samples,
                covered=share,
                low=low,
                high=high,
                steps=steps,
                by_window=bool(intervals.by_window[index]),
            )
        )
    return tuple(rows)


def percent(coverage: Fraction) -> str:
    """``90%``."""
    return f"{float(100 * coverage):g}%"
