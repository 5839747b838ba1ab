"""The screen of `dlcli eval --thresholds`: the thresholds, and what they change."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dlcli import wording
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.ui.text import class_name, figure

if TYPE_CHECKING:
    from dlcli.deploy.thresholds import Thresholded
    from dlcli.evaluation.metrics import EvalResult
    from dlcli.evaluation.thresholds import LabelFit

_MOST_LABELS = 12
# What thresholds change: what is counted of predicted labels.
_CHANGED = (
    *("accuracy", "f1_macro", "balanced_accuracy", "matthews_corrcoef"),
    *("precision_macro", "recall_macro"),
)


def threshold_facts(done: Thresholded, after: EvalResult) -> dict[str, Any]:
    """JSON-ready: the fit of each label, and the metrics of the split before and after."""
    fit = done.fit
    return {
        "metric": fit.metric,
        "changed": fit.helps,
        "val": {
            "samples": fit.samples,
            "before": fit.before,
            "held_out": fit.held_out,
            "labels": [
                {**asdict(one), "chosen": one.chosen, "changed": one.helps} for one in fit.labels
            ],
        },
        "before": _metrics(done.before),
        "after": _metrics(after),
    }


def print_thresholds(done: Thresholded, after: EvalResult) -> None:
    """Print the threshold of each label, and the metrics that change on the split evaluated."""
    fit = done.fit
    samples = wording.plural(fit.samples, "val sample")
    rows = [Row(class_name(one.name), _label(one, fit.metric)) for one in _shown(fit.labels)]
    if len(fit.labels) > len(rows):
        rows.append(Row("", f"and {wording.count(len(fit.labels) - len(rows))} more labels, in --json"))
    if not fit.helps:
        rows.append(Row("", f"nothing helps by {samples}: the model was not changed"))
        print_sections([Section("thresholds", rows)])
        return
    first, last = _metrics(done.before), _metrics(after)
    rows += [
        Row(name, f"{figure(first[name])} -> {figure(last[name])} on {after.split}, n={after.samples:,}")
        for name in first
        if name in last
    ]
    rows += [
        Row("", f"fitted to {fit.metric} on {samples}; outputs and probabilities stay the same"),
        Row("", f"stored in {done.model.path.name}: export again what was made from it before"),
    ]
    print_sections([Section("thresholds", rows)])


def _shown(labels: tuple[LabelFit, ...]) -> list[LabelFit]:
    """Those that changed first."""
    return sorted(labels, key=lambda one: not one.helps)[:_MOST_LABELS]


def _label(one: LabelFit, metric: str) -> str:
    from dlcli.evaluation.thresholds import FEWEST

    if one.threshold is None or one.held_out is None:
        count = wording.plural(one.positive, "val sample")
        return (
            f"{one.earlier:.3g}, as it was: {count} have it, and a threshold needs {FEWEST} with and "
            "without"
        )
    change = f"{metric} {figure(one.before)} -> {figure(one.held_out)} on val samples not fitted on"
    if one.helps:
        return f"{one.threshold:.3g} instead of {one.earlier:.3g}: {change}"
    return f"{one.earlier:.3g}, as it was: with {one.threshold:.3g} {change}"


def _metrics(result: EvalResult) -> dict[str, float]:
    """Those of predicted labels; of two classes the F1 of the second one too."""
    out = {name: result.metrics[name] for name in _CHANGED if name in result.metrics}
    if result.task == "classification" and len(result.per_class) == 2:
        out["f1"] = result.per_class[1].f1
    return out
