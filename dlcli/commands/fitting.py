"""What `eval` fits on the val split of a run before it measures: a temperature, then thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlcli.config import EvalConfig

if TYPE_CHECKING:
    from dlcli.deploy.temperature import Calibrated
    from dlcli.deploy.thresholds import Thresholded
    from dlcli.evaluation.eval_data import EvalData
    from dlcli.evaluation.metrics import EvalResult
    from dlcli.events import Emit
    from dlcli.formats.base import Artifact


@dataclass(frozen=True)
class Fitted:
    """The model after it, opened, and what was done; None for what was not requested."""

    model: Artifact
    temperature: Calibrated | None = None
    thresholds: Thresholded | None = None

    @property
    def validation(self) -> list[EvalResult]:
        """The evaluation of a model that was changed, on val."""
        done = (self.temperature, self.thresholds)
        return [one.validation for one in done if one is not None and one.validation is not None][-1:]

    def facts(self, after: EvalResult) -> dict[str, Any]:
        """JSON-ready; ``after`` is the evaluation of the model."""
        from dlcli.ui.calibration import calibration_facts
        from dlcli.ui.thresholds import threshold_facts

        out = {}
        if self.temperature is not None:
            out["calibration"] = calibration_facts(self.temperature, after)
        if self.thresholds is not None:
            out["thresholds"] = threshold_facts(self.thresholds, after)
        return out

    def show(self, after: EvalResult) -> None:
        """Print what was done."""
        from dlcli.ui.calibration import print_calibration
        from dlcli.ui.thresholds import print_thresholds

        if self.temperature is not None:
            print_calibration(self.temperature, after)
        if self.thresholds is not None:
            print_thresholds(self.thresholds, after)


def fit_on_val(model: Artifact, data: EvalData, config: EvalConfig, emit: Emit) -> Fitted:
    """Do what the settings request. Raises: UsageError, DlcliError as what is called."""
    from dlcli.deploy.temperature import calibrate
    from dlcli.deploy.thresholds import set_thresholds

    calibrated = calibrate(model, data, config, emit) if config.calibrate else None
    model = model if calibrated is None else calibrated.model
    # Thresholds are probabilities, so they are fitted to calibrated ones.
    if config.thresholds is None:
        return Fitted(model, calibrated)
    decided = set_thresholds(model, data, config, config.thresholds, emit)
    return Fitted(decided.model, calibrated, decided)
