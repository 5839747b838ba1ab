"""``dlcli predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dlcli.commands.inputs import split_arguments
from dlcli.commands.options import Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.config import EvalConfig, PredictConfig
from dlcli.config.bounds import parse_coverage
from dlcli.errors import DlcliError, UsageError
from dlcli.runs.folder import DEFAULT_ROOT
from dlcli.runs.folds import find_artifacts
from dlcli.wording import listed

if TYPE_CHECKING:
    from dlcli.data.base import Reader
    from dlcli.evaluation.conformal import Intervals
    from dlcli.evaluation.ensemble import Ensemble
    from dlcli.events import Emit
    from dlcli.task import TaskSpec
    from dlcli.ui.predict_writers import Head

OutputFormat = Literal["table", "csv", "json", "jsonl"]


@takes_config(PredictConfig)
def command(
    settings: Settings[PredictConfig],
    *,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[ARTIFACT]... INPUT...",
            help="Files, folders, quoted globs; - reads texts or a table from stdin. Leading model "
            "files, run folders or names of runs are the model to use (default: the newest run's); "
            "several are an ensemble (mean prediction).",
        ),
    ],
    output_format: Annotated[
        OutputFormat | None,
        typer.Option("--output-format", "-f", help="Default: by --output's name, else table."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")
    ] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option(
            "--artifact",
            "-a",
            help="The model to use; may be repeated. All arguments are then inputs.",
        ),
    ] = None,
    trust: Trust = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict with a trained model: labels, numbers, forecasts, translations.

    Inputs that cannot be read are reported and skipped; the exit code is then 1.

    Examples:
        dlcli predict some/photo.jpg
        dlcli predict ./new --output labels.csv --probabilities
        dlcli predict -a cnn-digits ./new --output-format jsonl
    """
    config = settings.resolve()
    chosen = _output_format(output_format, output, json_output)
    _check(config, chosen, top_k=settings.origins({})["top_k"] != "default")
    front, arguments = (artifact, inputs) if artifact else split_arguments("predict", inputs, runs_dir)
    paths = find_artifacts(front or [None], runs_dir)

    from dlcli.data.kinds import ReadOptions, kind_of
    from dlcli.evaluation.ensemble import Ensemble, check_members
    from dlcli.evaluation.evaluate import batch_size_of
    from dlcli.evaluation.predict import predict
    from dlcli.events import Warned
    from dlcli.formats.base import open_artifact, recognize
    from dlcli.ui.predict_rows import prediction_head, prediction_rows
    from dlcli.ui.predict_writers import WRITERS, destination
    from dlcli.ui.progress.sinks import progress_sink

    files = [recognize(path) for path in paths]
    tasks = [file.card.task for file in files]
    check_members([(str(path), task) for path, task in zip(paths, tasks, strict=True)])
    task = tasks[0]
    kind = kind_of(task)
    samples = kind.inputs(arguments, task)  # before loading weights: a wrong name fails at once
    if not len(samples):
        raise DlcliError(f"{listed(arguments, 5)} has no inputs to predict")
    head, carried = prediction_head(_facts(paths), task, samples, config)
    models = [open_artifact(file, device=config.device, amp=config.amp, trust=trust) for file in files]
    ensemble = Ensemble(models, tta=config.tta)

    def read_as(member: TaskSpec) -> Reader:
        # Tables and series are read by the columns of each model; images and texts are the same for
        # all, and stdin can be read only once.
        same = member.input == task.input or not kind.inputs_by_task
        listed = samples if same else kind.inputs(arguments, member)
        return kind.reader(listed, member, ReadOptions(workers=config.workers))

    reader = ensemble.reader(read_as)
    head = replace(head, keys=(*head.keys, *next(iter(reader.row_keys(0)), {})))
    # A live view would interleave with a table on the same screen.
    silent = quiet or json_output or (chosen == "table" and output is None)
    with progress_sink(silent, json_output) as emit:
        opened = (note for model in models for note in model.notes)
        notices = (notice.message for notice in (*samples.notices, *reader.notices))
        for message in (*opened, *notices, *carried.messages):
            emit(Warned(message))
        intervals = _intervals(ensemble, paths, config, emit) if config.intervals is not None else None
        if intervals is not None:
            head = replace(
                head, intervals=True, facts={**head.facts, **_interval_facts(intervals, task)}
            )
        predictions = predict(
            ensemble.predict,
            reader,
            task,
            top_k=head.top_k,
            batch_size=config.batch_size or batch_size_of(ensemble),
            beams=config.beams,
            carried=carried.cells,
            half_widths=None if intervals is None else partial(intervals.around, task=task),
        )
        with destination(output) as stream:
            WRITERS[chosen](prediction_rows(predictions, head, carried, emit), stream, head)
    if intervals is not None:
        _report_intervals(intervals, quiet=quiet or json_output)
    if output is not None:
        _report_output(output, chosen, head, as_json=json_output, quiet=quiet)
    if head.failed:
        raise DlcliError(
            f"{len(head.failed)} of {len(samples)} inputs could not be read",
            hint="they are named above; the others were predicted",
        )


def _facts(paths: Sequence[Path]) -> dict[str, Any]:
    """The first keys of the JSON object."""
    named = [str(path) for path in paths]
    return {
        "command": "predict",
        **({"artifact": named[0]} if len(named) == 1 else {}),
        "artifacts": named,
    }


def _intervals(
    ensemble: Ensemble, paths: Sequence[Path], config: PredictConfig, emit: Emit
) -> Intervals:
    """Fit the intervals of ``--intervals``. Raises: UsageError, DlcliError."""
    from dlcli.evaluation.conformal import fit_intervals

    assert config.intervals is not None
    if len(paths) > 1:
        raise UsageError(
            f"--intervals is for one model, and {len(paths)} are given: each has a val split of its own",
            hint="name one of them",
        )
    read = EvalConfig(workers=config.workers)
    coverage = parse_coverage(config.intervals)
    card = ensemble.members[0].card
    return fit_intervals(ensemble.predict, card, paths[0], read, coverage, emit)


def _interval_facts(intervals: Intervals, task: TaskSpec) -> dict[str, Any]:
    """The coverage, and half the widths of the intervals of each target, for JSON: of each step."""
    widths = zip(task.targets, intervals.half_widths.T.tolist(), strict=True)
    return {
        "intervals": {
            "coverage": float(intervals.coverage),
            "val_samples": intervals.samples,
            "half_widths": {target.name: width for target, width in widths},
            "multiples_of_window_std": [
                target.name
                for target, by_window in zip(task.targets, intervals.by_window, strict=True)
                if by_window
            ],
            "note": intervals.words(),
        }
    }


def _check(config: PredictConfig, chosen: str, *, top_k: bool) -> None:
    """Raises: UsageError for options that have no effect together; ``top_k``: whether it was given."""
    for flag, given in (
        ("--keep-columns", config.keep_columns is not None),
        ("--probabilities", config.probabilities),
    ):
        if given and chosen == "table":
            raise UsageError(
                f"{flag} is for files and other programs, not for a table on the screen",
                hint="add --output FILE.csv, or --output-format csv, json or jsonl",
            )
    if config.probabilities and top_k:
        raise UsageError(
            f"--probabilities gives every class, and --top-k {config.top_k} some of them",
            hint="leave one of them out",
        )


def _report_intervals(intervals: Intervals, *, quiet: bool) -> None:
    """Say on stderr what the intervals assume; JSON has it among its first keys."""
    from dlcli.ui.console import stderr

    if not quiet:
        stderr().print(intervals.words(), soft_wrap=True)


def _report_output(output: Path, chosen: str, head: Head, *, as_json: bool, quiet: bool) -> None:
    """Report the written file: a line on stderr, or JSON on stdout."""
    from dlcli.ui.console import stderr
    from dlcli.ui.json_output import print_json
    from dlcli.wording import plural, printable

    done = len(head.inputs) - len(head.failed)
    if as_json:
        facts = {"output": str(output), "format": chosen, "predicted": done, "failed": head.failed}
        print_json({**head.facts, **facts})
    elif not quiet:
        message = f"predictions of {plural(done, 'input')} are in {printable(str(output))}"
        stderr().print(message, soft_wrap=True)


def _output_format(requested: OutputFormat | None, output: Path | None, as_json: bool) -> str:
    """Return the output format. Raises: UsageError for a table in a file.

    ``--json`` alone means JSON on stdout; with ``--output`` it describes the file.
    """
    if as_json and output is None:
        if requested not in (None, "json"):
            raise UsageError(f"--json and --output-format {requested} exclude each other")
        return "json"
    if requested is not None:
        chosen: str = requested
    elif output is not None:
        suffix = output.suffix.lower().lstrip(".")
        if suffix not in ("csv", "json", "jsonl"):
            raise UsageError(
                f"--output {output}: the name does not say which format",
                hint="end it in .csv, .json or .jsonl, or add --output-format",
            )
        chosen = suffix
    else:
        chosen = "table"
    if chosen == "table" and output is not None:
        raise UsageError("a table is for the screen", hint="--output-format csv, json or jsonl")
    return chosen
