"""``dlcli eval``."""

from __future__ import annotations

from typing import Annotated

import typer

from dlcli.commands.options import Artifact, Json, Quiet, RunsDir, Settings, takes_config
from dlcli.config import EvalConfig
from dlcli.errors import BoundMissed, DlcliError, UsageError, nearest
from dlcli.runs import DEFAULT_ROOT, find_artifact, run_of


@takes_config(EvalConfig)
def command(
    settings: Settings[EvalConfig],
    *,
    artifact: Artifact = None,
    minimum: Annotated[
        list[str] | None,
        typer.Option(
            "--min",
            metavar="METRIC=VALUE",
            help="Exit with 3 when the metric is worse; may be repeated.",
        ),
    ] = None,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model on a split, and hold it against simple baselines.

    On the data it was trained on: the test split where there is one, else val. --data measures it
    on other data, with classes matched by name. What a baseline reaches stands beside it.
    """
    config = settings.resolve()
    bounds = [_parse_bound(text) for text in minimum or []]
    path = find_artifact(artifact, runs_dir)

    from dlcli.engine.evaldata import eval_data
    from dlcli.engine.evaluate import measure
    from dlcli.events import Warned
    from dlcli.formats.base import open_artifact
    from dlcli.ui.plots import save_result
    from dlcli.ui.report import print_json
    from dlcli.ui.sinks import progress_sink
    from dlcli.ui.tables import print_eval

    with progress_sink(quiet, json_output) as emit:
        model = open_artifact(path, device=config.device)
        data = eval_data(model.card, path, config)
        for message in (*data.warnings, *data.reader.notes):
            emit(Warned(message))
        result = measure(model, data, config, emit=emit)
        note = data.note + (
            "; mean over each image and its mirror image" if config.tta == "flip" else ""
        )
        run, plots = run_of(path), []
        if run is not None:
            try:
                plots = save_result(run.plots, result)
            except DlcliError as exc:  # a run that may only be read can still be measured
                emit(Warned(f"no plot: {exc.message}"))
    missed = [_missed(bound, result.metrics) for bound in bounds]
    if json_output:
        print_json(
            {
                "command": "eval",
                "artifact": str(path),
                "note": note,
                **result.to_dict(),
                "class_names": list(model.card.task.class_names),
                "plots": [str(plot) for plot in plots],
                "missed": [text for text in missed if text],
            }
        )
    else:
        print_eval(result, str(path), note)
    for text in missed:
        if text:
            raise BoundMissed(text)


def _parse_bound(text: str) -> tuple[str, float]:
    from dlcli.engine.metrics import DIRECTIONS

    name, _, value = text.partition("=")
    if name not in DIRECTIONS:
        raise UsageError(f"--min {text!r}: {name!r} is no metric", hint=nearest(name, DIRECTIONS))
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(f"--min {text!r}: {value!r} is no number", hint="--min accuracy=0.9") from None


def _missed(bound: tuple[str, float], metrics: dict[str, float]) -> str | None:
    """The sentence for a missed bound; a metric that falls is bounded from above."""
    from dlcli.engine.metrics import DIRECTIONS

    name, value = bound
    if name not in metrics:
        return f"--min {name}={value:g}: {name} is not measured here; there is {', '.join(metrics)}"
    if (metrics[name] - value) * DIRECTIONS[name] >= 0:
        return None
    side = "below" if DIRECTIONS[name] > 0 else "above"
    return f"{name} is {metrics[name]:.4f}, {side} the bound of {value:g}"
