"""Evaluation from Python."""

from __future__ import annotations

from os import PathLike
from typing import Any

from dlcli.api.models import Model, load
from dlcli.api.python_words import python_words
from dlcli.config import EvalConfig
from dlcli.errors import UsageError
from dlcli.evaluation.ensemble import Ensemble
from dlcli.evaluation.eval_data import eval_data
from dlcli.evaluation.evaluate_artifacts import evaluate_ensemble
from dlcli.evaluation.metrics import EvalResult
from dlcli.settings import validate
from dlcli.trust import allowing


@python_words()
def evaluate(
    model: Model | str | PathLike[str] | None = None,
    data: str | PathLike[str] | None = None,
    *,
    split: str = "auto",
    **settings: Any,
) -> EvalResult:
    """Evaluate a model on a split, next to simple baselines, as `dlcli eval` does.

    Args:
        model: of `load`, or what `load` takes.
        data: other data; by default what the model was trained on.
        split: "train", "val", "test", "all", or "auto": test where there is one, else val.
        settings: as the options of `dlcli eval`, with underscores (``batch_size=64``).

    Raises: DlcliError when the data is missing or does not fit, UsageError for settings.
    """
    opened = model if isinstance(model, Model) else load(model)
    values = {**settings, "data": None if data is None else str(data), "split": split}
    config = validate(EvalConfig, values)
    for name in ("calibrate", "thresholds", "explain", "ensemble"):
        if getattr(config, name):
            raise UsageError(f"{name} is what the command dlcli eval does", hint="run it in a shell")
    with allowing(config.data):
        samples = eval_data(opened.card, opened.artifact.path, config)
    return evaluate_ensemble(Ensemble([opened.artifact], tta=config.tta), samples, config)
