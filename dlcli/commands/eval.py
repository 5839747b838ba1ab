"""``dlcli eval``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.commands.adopting import adopted_for
from dlcli.commands.fitting import fit_on_val
from dlcli.commands.options import Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.commands.recording import record_evaluations
from dlcli.config import EvalConfig
from dlcli.errors import BoundMissed, DlcliError, UsageError, nearest
from dlcli.runs.folder import DEFAULT_ROOT, RunFolder, check_links, run_of
from dlcli.runs.folds import FoldsFolder, find_artifacts, folds_of
from dlcli.runs.saved import read_run

if TYPE_CHECKING:
    from dlcli.evaluation.eval_data import EvalData
    from dlcli.evaluation.metrics import EvalResult
    from dlcli.events import Emit
    from dlcli.formats.base import Artifact

# Prints a result with a note, or as JSON, and returns what bounds it misses.
Report = Callable[[str, list[tuple[str, float]], bool], list[str]]


@takes_config(EvalConfig)
def command(
    settings: Settings[EvalConfig],
    *,
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARTIFACT]...",
            help="A model file, a run folder or a run's name (default: the newest run). Several are "
            "compared on the same samples; with --ensemble their mean prediction is evaluated.",
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
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="CSV file of --worst (default: worst.csv of the run)."),
    ] = None,
    trust: Trust = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model on a split, next to simple baselines, or compare several.

    By default on the data that it was trained on: the test split where there is one, else val. --data
    evaluates it on other data, with classes matched by name.

    Examples:
        dlcli eval
        dlcli eval resnet18-imgs --data ./new --min accuracy=0.9
        dlcli eval cnn-digits --worst 20 --output worst.csv
    """
    config, fold = _with_folds(settings.resolve(), artifacts or [], runs_dir)
    bounds = [_parse_bound(text) for text in minimum or []]
    paths = find_artifacts(artifacts or [None], runs_dir)
    compared = len(paths) > 1 and not config.ensemble
    _check(config, paths, output)

    from dlcli.evaluation.ensemble import check_members, seen_in_training
    from dlcli.evaluation.eval_data import eval_data, left_out_data
    from dlcli.evaluation.explanations import check_explained
    from dlcli.events import Warned
    from dlcli.formats.base import open_artifact, recognize
    from dlcli.ui.progress.sinks import progress_sink

    opened = [recognize(path) for path in paths]
    adopted = adopted_for(opened, config.data, target=config.target, trust=trust)
    with adopted as (files, assumed):
        if config.explain:
            check_explained(files[0].card.task)
        _check_bounds(bounds, (*config.metrics, *(code for f in files for code in f.card.task.metrics)))
        check_members([(str(f.path), f.card.task) for f in files], averaged=not compared)
        # Before the weights: a wrong name fails at once.
        if fold is None:
            data = eval_data(files[0].card, paths[0], config)
        else:
            data = left_out_data(fold, files[0].card, config)
        with progress_sink(quiet, json_output) as emit:
            models = [
                open_artifact(file, device=config.device, amp=config.amp, trust=trust) for file in files
            ]
            models = [_measured_by(model, config.metrics) for model in models]
            warnings = [*assumed, *data.warnings, *(note for model in models for note in model.notes)]
            if config.data is None:
                warnings += seen_in_training(models, data.reader.samples.ids)
            for message in warnings:
                emit(Warned(message))
            measure = _compare if compared else _evaluate
            report = measure(models, data, config, emit=emit, output=output)
    mirrored = "; mean over each image and its mirror image" if config.tta == "flip" else ""
    computed = f"; computed in {config.amp}" if config.amp != "none" else ""
    decided = _decided(models, config)
    missed = report(data.note + mirrored + computed + decided, bounds, json_output)
    if missed:
        raise BoundMissed(missed[0])


def _decided(models: Sequence[Artifact], config: EvalConfig) -> str:
    """The thresholds that the labels of one model go by; what is fitted now is said by itself."""
    from dlcli.evaluation.decisions import thresholds_in_words

    known = thresholds_in_words(models[0].card.task)
    fitted = config.calibrate or config.thresholds is not None
    return f"; labels by thresholds: {known}" if known and len(models) == 1 and not fitted else ""


def _with_folds(
    config: EvalConfig, artifacts: Sequence[str], root: Path
) -> tuple[EvalConfig, RunFolder | None]:
    """Return the settings with which the models of a cross-validation are evaluated: as an ensemble.

    And one of its runs, on whose data that is in no fold, None where other data is given. Raises:
    UsageError where all data is in folds.
    """
    groups = [group for text in artifacts if (group := folds_of(text, root)) is not None]
    if not groups:
        return config, None
    several = any(FoldsFolder.find(text, root) is not None for text in artifacts)
    update: dict[str, Any] = {"ensemble": True} if several else {}
    if config.data is None:
        saved = read_run(groups[0].run(1))
        if not groups[0].has_test():
            file = groups[0].predictions
            own = f"{file} has what each sample was predicted by the model that has not seen it"
            if not file.is_file():
                own += f", once all folds are trained: {groups[0].resume_command}"
            raise UsageError(
                f"each sample of {saved.config.data.data} was seen in training by some of the models of "
                f"{groups[0].path}",
                hint=f"give other data with --data; {own}",
            )
        return config.model_copy(update={**update, "split": "test"}), saved.folder
    return config.model_copy(update=update), None


def _measured_by(model: Artifact, metrics: tuple[str, ...]) -> Artifact:
    """Return a model with more of the user's metrics in its task. Raises: DlcliError, UsageError."""
    from dlcli.evaluation.metrics.user_metrics import check_metrics

    task = model.card.task
    added = task.model_copy(update={"metrics": tuple(dict.fromkeys((*task.metrics, *metrics)))})
    check_metrics(task.model_copy(update={"metrics": metrics}))
    return model.with_card(model.card.model_copy(update={"task": added}))


def _check(config: EvalConfig, artifacts: Sequence[Path], output: Path | None) -> None:
    """Raises: UsageError for options that have no effect together."""
    if config.ensemble and len(artifacts) < 2:
        raise UsageError("--ensemble averages several models", hint="dlcli eval A B --ensemble")
    for fitted, given in (("--calibrate", config.calibrate), ("--thresholds", config.thresholds)):
        if given and len(artifacts) > 1:
            raise UsageError(f"{fitted} is for one model", hint="do it for each, then evaluate them")
        if given and (config.tta, config.amp) != ("none", "none"):
            flag = "--tta" if config.tta != "none" else "--amp"
            raise UsageError(
                f"{fitted} is for the model as it was trained, in float32, and not with {flag}",
                hint=f"leave {flag} out",
            )
    if config.intervals is not None and len(artifacts) > 1:
        raise UsageError("--intervals is for one model", hint="name one of them")
    if config.explain and _own_run(artifacts, config) is None:
        raise UsageError(
            "--explain is for a run's own model on its own data, whose report shows the explanations",
            hint="name one run, without --data, --tta, --amp; dlcli explain FILE... explains any input",
        )
    if config.worst is None and output is not None:
        raise UsageError("--output is for the samples of --worst", hint=f"--worst 20 --output {output}")
    if len(artifacts) > 1 and not config.ensemble:
        for flag, given in (
            ("--worst", config.worst is not None),
            ("--baselines", config.baselines),
            ("--slice", bool(config.slices)),
        ):
            if given:
                raise UsageError(
                    f"{flag} is for one model or an ensemble, and {len(artifacts)} models are compared",
                    hint="name one of them, or add --ensemble",
                )


def _compare(
    models: Sequence[Artifact], data: EvalData, config: EvalConfig, *, emit: Emit, output: Path | None
) -> Report:
    """Compare the models."""
    from dlcli.evaluation.comparing import compare_models
    from dlcli.ui.compared import print_model_comparison
    from dlcli.ui.json_output import print_json

    result = compare_models(models, data, config, emit=emit)

    def report(note: str, bounds: list[tuple[str, float]], as_json: bool) -> list[str]:
        missed = [
            f"{row.artifact}: {text}"
            for row in result.models
            for bound in bounds
            if (text := _missed(bound, row.metrics, row.undefined))
        ]
        if as_json:
            print_json({**_facts(models, note), **result.to_dict(), "missed": missed})
        else:
            print_model_comparison(result, note)
        return missed

    return report


def _evaluate(
    models: Sequence[Artifact], data: EvalData, config: EvalConfig, *, emit: Emit, output: Path | None
) -> Report:
    """Evaluate one model or an ensemble; write plots and the worst samples."""
    from dlcli.evaluation.ensemble import Ensemble
    from dlcli.evaluation.evaluate_artifacts import evaluate_ensemble
    from dlcli.evaluation.worst import SHOWN
    from dlcli.ui.compared import print_explained, print_members, print_worst
    from dlcli.ui.intervals import print_intervals
    from dlcli.ui.json_output import print_json
    from dlcli.ui.slices import print_slices
    from dlcli.ui.tables import print_eval
    from dlcli.ui.translations import print_translations

    fitted = fit_on_val(models[0], data, config, emit)
    models = [_measured_by(fitted.model, config.metrics), *models[1:]]
    own = _own_run([model.path for model in models], config)
    shown = 0 if own is None else SHOWN
    measured = evaluate_ensemble(Ensemble(models, tta=config.tta), data, config, shown=shown, emit=emit)
    result = replace(measured, worst=measured.worst[: config.worst or 0])
    # A run has plots and figures of its own model alone.
    plots = _save_plots(models[0].path, result, emit) if len(models) == 1 else []
    if own is not None:
        record_evaluations(own, [*fitted.validation, measured], "eval", emit)
    worst = _write_worst(models[0].path if len(models) == 1 else None, result, output, emit)

    def report(note: str, bounds: list[tuple[str, float]], as_json: bool) -> list[str]:
        missed = [text for bound in bounds if (text := _missed(bound, result.metrics, result.undefined))]
        files = {"plots": [str(plot) for plot in plots], "worst_csv": worst and str(worst)}
        if as_json:
            facts = {**_facts(models, note), **result.to_dict(), **fitted.facts(result)}
            print_json({**facts, **files, "missed": missed})
            return missed
        fitted.show(result)
        mean = f"the mean prediction of {len(models)} models"
        print_eval(result, str(models[0].path) if len(models) == 1 else mean, note)
        if result.intervals:
            print_intervals(result.intervals, result.split)
        if result.slices:
            print_slices(result.slices, result.metrics.get(result.slices[0].metric, math.nan))
        print_translations(result.translations, result.split)
        if result.members:
            print_members(result)
        if result.worst:
            print_worst(result.worst, worst)
        if config.explain and own is not None:
            print_explained(measured.worst, own.report)
        return missed

    return report


def _own_run(artifacts: Sequence[Path], config: EvalConfig) -> RunFolder | None:
    """The run whose best model is evaluated on its own data, as it was trained; else None."""
    if len(artifacts) > 1 or config.data is not None or not config.tta == config.amp == "none":
        return None
    run = run_of(artifacts[0])
    return run if run is not None and artifacts[0] == run.best else None


def _facts(models: Sequence[Artifact], note: str) -> dict[str, Any]:
    """The first keys of the JSON object."""
    alone = {"artifact": str(models[0].path)} if len(models) == 1 else {}
    return {
        "command": "eval",
        **alone,
        "artifacts": [str(model.path) for model in models],
        "note": note,
        "class_names": list(models[0].card.task.class_names),
    }


def _save_plots(path: Path, result: EvalResult, emit: Emit) -> list[Path]:
    """Save the plots of an artifact that is in a run folder, and return their paths."""
    from dlcli.events import Warned
    from dlcli.ui.plots.run import save_result

    run = run_of(path)
    if run is None:
        return []
    try:
        check_links(run.path)
        return save_result(run.plots, result, run.name)
    except DlcliError as exc:  # a read-only run can still be evaluated
        emit(Warned(f"no plot: {exc.message}"))
        return []


def _write_worst(path: Path | None, result: EvalResult, output: Path | None, emit: Emit) -> Path | None:
    """Write the worst samples to ``output``, else into the run of the model at ``path``."""
    from dlcli.events import Warned
    from dlcli.ui.compared import write_worst

    if not result.worst:
        return None
    if output is not None:
        return write_worst(output, result.worst)
    run = None if path is None else run_of(path)
    if run is None:
        return None
    try:
        return write_worst(run.path / "worst.csv", result.worst)
    except DlcliError as exc:  # a read-only run can still be evaluated
        emit(Warned(f"not written: {exc.message}"))
        return None


def _parse_bound(text: str) -> tuple[str, float]:
    """Return the name of a metric and its bound; the name is checked with the model."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(
            f"--min {text!r}: {value!r} is not a number", hint="--min accuracy=0.9"
        ) from None


def _check_bounds(bounds: Sequence[tuple[str, float]], metrics: tuple[str, ...]) -> None:
    """Raises: UsageError for an unknown metric. The user's are known later, when their code has run."""
    from dlcli.evaluation.metrics import directions

    for name, value in () if metrics else bounds:
        if name not in directions():
            hint = nearest(name, directions())
            raise UsageError(f"--min {name}={value:g}: {name!r} is not a metric", hint=hint)


def _missed(
    bound: tuple[str, float], metrics: dict[str, float], undefined: dict[str, str]
) -> str | None:
    """Return a message for a missed bound, else None; errors are bounded from above."""
    from dlcli.evaluation.metrics import direction

    name, value = bound
    if name in undefined:
        return f"--min {name}={value:g}: {name} is undefined: {undefined[name]}"
    if name not in metrics:
        return f"--min {name}={value:g}: {name} is not measured here; available: {', '.join(metrics)}"
    if (metrics[name] - value) * direction(name) >= 0:
        return None
    side = "below" if direction(name) > 0 else "above"
    return f"{name} is {metrics[name]:.4f}, {side} the bound of {value:g}"
