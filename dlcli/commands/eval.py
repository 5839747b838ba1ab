"""``dlcli eval``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcli.commands.options import Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.config import EvalConfig
from dlcli.errors import BoundMissed, DlcliError, UsageError, nearest
from dlcli.runs.folder import DEFAULT_ROOT, find_artifact, run_of

if TYPE_CHECKING:
    from dlcli.evaluation.metrics import EvalResult
    from dlcli.events import Emit


@takes_config(EvalConfig)
def command(
    settings: Settings[EvalConfig],
    *,
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARTIFACT]...",
            help="A model file, a run folder or a run's name (default: the newest run). Several are "
            "evaluated as an ensemble (mean prediction), and each alone.",
        ),
    ] = None,
    minimum: Annotated[
        list[str] | None,
        typer.Option(
            "--min",
            metavar="METRIC=VALUE",
            help="Exit with 3 when the metric is worse; may be repeated.",
        ),
    ] = None,
    trust: Trust = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model on a split, next to simple baselines.

    By default on the data that it was trained on: the test split where there is one, else val. --data
    evaluates it on other data, with classes matched by name.
    """
    config = settings.resolve()
    bounds = [_parse_bound(text) for text in minimum or []]
    named: Sequence[str | None] = artifacts or [None]
    paths = [find_artifact(text, runs_dir) for text in named]

    from dlcli.evaluation.ensemble import Ensemble, check_members, seen_in_training
    from dlcli.evaluation.eval_data import eval_data
    from dlcli.evaluation.evaluate import evaluate_ensemble
    from dlcli.events import Warned
    from dlcli.formats.base import open_artifact, recognize
    from dlcli.ui.json_output import print_json
    from dlcli.ui.progress.sinks import progress_sink
    from dlcli.ui.tables import print_eval

    files = [recognize(path) for path in paths]
    check_members([(str(file.path), file.card.task) for file in files])
    data = eval_data(files[0].card, paths[0], config)  # before the weights: a wrong name fails at once
    with progress_sink(quiet, json_output) as emit:
        models = [open_artifact(file, device=config.device, trust=trust) for file in files]
        ensemble = Ensemble(models, tta=config.tta)
        warnings = list(data.warnings)
        if config.data is None:
            warnings += seen_in_training(models, data.reader.samples.ids)
        for message in warnings:
            emit(Warned(message))
        result = evaluate_ensemble(ensemble, data, config, emit=emit)
        # A run has plots of its own model alone.
        plots = _save_plots(paths[0], result, emit) if len(paths) == 1 else []
    note = data.note + ("; mean over each image and its mirror image" if config.tta == "flip" else "")
    missed = [_missed(bound, result.metrics) for bound in bounds]
    if json_output:
        alone = {"artifact": str(paths[0])} if len(paths) == 1 else {}
        print_json(
            {
                "command": "eval",
                **alone,
                "artifacts": [str(path) for path in paths],
                "note": note,
                **result.to_dict(),
                "class_names": list(ensemble.task.class_names),
                "plots": [str(plot) for plot in plots],
                "missed": [text for text in missed if text],
            }
        )
    else:
        several = f"the mean prediction of {len(paths)} models"
        print_eval(result, str(paths[0]) if len(paths) == 1 else several, note)
        if result.members:
            _print_members(result)
    for text in missed:
        if text:
            raise BoundMissed(text)


def _save_plots(path: Path, result: EvalResult, emit: Emit) -> list[Path]:
    """Save the plots of an artifact that is in a run folder, and return their paths."""
    from dlcli.events import Warned
    from dlcli.ui.plots.run import save_result

    run = run_of(path)
    if run is None:
        return []
    try:
        return save_result(run.plots, result)
    except DlcliError as exc:  # a read-only run can still be evaluated
        emit(Warned(f"no plot: {exc.message}"))
        return []


def _print_members(result: EvalResult) -> None:
    """Print each model of an ensemble alone, and whether the mean prediction is better."""
    from dlcli.ui.console import stdout
    from dlcli.ui.sections import Row, Section, print_sections
    from dlcli.ui.tables import interval, print_comparison, verdict
    from dlcli.ui.text import figure, signed

    metric = result.members[0].metric
    names, rows = [], []
    for number, row in enumerate(result.members, 1):
        names.append(Row(str(number), row.artifact))
        rows.append(
            [
                str(number),
                figure(row.metrics[metric]),
                signed(row.difference),
                interval(row),
                verdict(row),
            ]
        )
    stdout().print()
    print_sections([Section("the models", names)])
    stdout().print()
    print_comparison(
        f"each alone (difference: the mean prediction's {figure(result.metrics[metric])} minus its own)",
        ["model", metric, "difference", "95 % interval", "the mean prediction is"],
        rows,
    )


def _parse_bound(text: str) -> tuple[str, float]:
    from dlcli.evaluation.metrics import directions

    name, _, value = text.partition("=")
    if name not in directions():
        raise UsageError(f"--min {text!r}: {name!r} is not a metric", hint=nearest(name, directions()))
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(
            f"--min {text!r}: {value!r} is not a number", hint="--min accuracy=0.9"
        ) from None


def _missed(bound: tuple[str, float], metrics: dict[str, float]) -> str | None:
    """Return a message for a missed bound, else None; errors are bounded from above."""
    from dlcli.evaluation.metrics import direction

    name, value = bound
    if name not in metrics:
        return f"--min {name}={value:g}: {name} is not measured here; available: {', '.join(metrics)}"
    if (metrics[name] - value) * direction(name) >= 0:
        return None
    side = "below" if direction(name) > 0 else "above"
    return f"{name} is {metrics[name]:.4f}, {side} the bound of {value:g}"
