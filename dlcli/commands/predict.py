"""``dlcli predict``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dlcli.commands.options import Json, Quiet, RunsDir, Settings, takes_config
from dlcli.config import PredictConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.runs import DEFAULT_ROOT, RunFolder, find_artifact

OutputFormat = Literal["table", "csv", "json", "jsonl"]


@takes_config(PredictConfig)
def command(
    settings: Settings[PredictConfig],
    *,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[ARTIFACT] INPUT...",
            help="Images, folders or quoted globs. A model file, run folder or run's name in front "
            "is the model to use (default: the newest run's).",
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
        str | None,
        typer.Option("--artifact", "-a", help="The model to use; then every argument is an input."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label files with a trained model.

    Inputs that cannot be read are named, the rest go on, and the exit code is 1 at the end.
    """
    config = settings.resolve()
    chosen = _output_format(output_format, output, json_output)
    arguments = inputs
    if artifact is None:
        artifact, arguments = _split_arguments(inputs, runs_dir)
    path = find_artifact(artifact, runs_dir)

    from dlcli.data.base import Samples
    from dlcli.data.reader import Reader
    from dlcli.engine.predicting import find_inputs, predict
    from dlcli.events import EvalProgress, Warned
    from dlcli.formats.base import open_artifact
    from dlcli.ui.sinks import progress_sink
    from dlcli.ui.writers import WRITERS, destination

    files = find_inputs(arguments)
    model = open_artifact(path, device=config.device)
    task = model.card.task

    def make_reader(samples: Samples) -> Reader:
        return Reader(samples, task.input, workers=config.workers, cache_bytes=0)

    failed: list[dict[str, str]] = []

    # A table on the same screen would be torn by a live view.
    silent = quiet or json_output or (chosen == "table" and output is None)
    with progress_sink(silent, json_output) as emit:

        def rows() -> Iterator[dict[str, Any]]:
            found = predict(
                model.predict,
                files,
                make_reader,
                task.class_names,
                top_k=config.top_k,
                batch_size=config.batch_size,
            )
            for done, prediction in enumerate(found, 1):
                if prediction.error is None:
                    yield prediction.to_dict()
                else:
                    failed.append({"file": prediction.file, "error": prediction.error})
                    emit(Warned(f"{prediction.file}: {prediction.error}"))
                if done % 64 == 0 or done == len(files):
                    emit(EvalProgress(split="predict", done=done, total=len(files)))

        head = {
            "command": "predict",
            "artifact": str(path),
            "top_k": min(config.top_k, task.num_classes),
            "failed": failed,
        }
        with destination(output) as stream:
            WRITERS[chosen](rows(), stream, head)
    if failed:
        raise DlcliError(
            f"{len(failed)} of {len(files)} inputs could not be read",
            hint="they are named above; the others were predicted",
        )


def _split_arguments(inputs: list[str], runs_dir: Path) -> tuple[str | None, list[str]]:
    """The artifact, if the first argument is one, and the inputs. Raises: UsageError for no inputs."""
    first = inputs[0]
    if not _is_artifact(first, runs_dir):
        return None, inputs
    if len(inputs) == 1:
        raise UsageError(
            f"{first} is a model; nothing was given to predict", hint=f"dlcli predict {first} FILE..."
        )
    return first, inputs[1:]


def _is_artifact(text: str, runs_dir: Path) -> bool:
    """Whether it is a model file (by content or name), a run folder, or a run's name and no path."""
    from dlcli.formats.base import FORMATS, sniff_format

    path = Path(text)
    if path.suffix in {entry.suffix for _, entry in FORMATS.entries()}:
        return True  # damaged or missing, it is still meant: another model must not answer for it
    if path.is_file():
        try:
            sniff_format(path)
        except DlcliError:
            return False
        return True
    if path.exists():
        return RunFolder(path).record.is_file()
    return text == "last" or RunFolder(runs_dir / text).record.is_file()


def _output_format(asked: OutputFormat | None, output: Path | None, as_json: bool) -> str:
    """The format that is meant. Raises: UsageError for a table in a file."""
    if as_json:
        if asked not in (None, "json"):
            raise UsageError(f"--json and --output-format {asked} exclude each other")
        return "json"
    if asked is not None:
        chosen: str = asked
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
