"""The screen of `dlcli eval --calibrate`: the temperature, and what it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlcli import wording
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.ui.text import figure

if TYPE_CHECKING:
    from dlcli.deploy.temperature import Calibrated
    from dlcli.evaluation.metrics import EvalResult

# What a temperature changes; all else depends on the order of the logits alone.
_CHANGED = ("log_loss", "ece")
_MEANING = {
    "log_loss": "mean of -log(probability of the true class)",
    "ece": "expected calibration error: distance of confidence from accuracy, in 15 bins",
}


def calibration_facts(done: Calibrated, after: EvalResult) -> dict[str, Any]:
    """JSON-ready: the temperature, what it was fitted on, the metrics of the split before and after."""
    fit = done.fit
    return {
        "temperature": done.temperature,
        "changed": fit.helps,
        "val": {
            "samples": fit.samples,
            "temperature": fit.temperature,
            "log_loss": fit.log_loss,
            "log_loss_calibrated": fit.calibrated,
            "log_loss_held_out": fit.held_out,
        },
        "before": _changed(done.before),
        "after": _changed(after.metrics),
    }


def print_calibration(done: Calibrated, after: EvalResult) -> None:
    """Print the temperature and the metrics that it changes, on the split that is evaluated."""
    fit = done.fit
    samples = wording.plural(fit.samples, "val sample")
    if not fit.helps:
        value = (
            f"{done.temperature:.4g}, as it was, and the model was not changed: "
            f"{fit.temperature:.4g} times that is best for {samples}, but on those it is not fitted "
            f"on log_loss would be {figure(fit.held_out)} instead of {figure(fit.log_loss)}"
        )
        rows = [Row("temperature", value)]
        print_sections([Section("calibration", rows)])
        return
    rows = [Row("temperature", f"{done.temperature:.4g}, fitted on {samples}")]
    first, last = _changed(done.before), _changed(after.metrics)
    for name in first:
        change = f"{figure(first[name])} -> {figure(last[name])} on {after.split}"
        rows.append(Row(name, f"{change}; {_MEANING[name]}"))
    direction = "less certain than it was" if fit.temperature > 1 else "more certain than it was"
    rows += [
        Row("", f"the model is {direction}; every predicted class stays the same"),
        Row("", f"it is stored in {done.model.path.name}: export again what was made from it before"),
    ]
    print_sections([Section("calibration", rows)])


def _changed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in _CHANGED if name in metrics}
