"""``dlcli explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcli.commands.inputs import split_arguments
from dlcli.commands.options import Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.config import ExplainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.runs.folder import DEFAULT_ROOT, check_links, run_of, safe_name
from dlcli.runs.folds import find_artifacts
from dlcli.wording import listed, printable

if TYPE_CHECKING:
    from dlcli.evaluation.explanations import Explanation

FOLDER = "explanations"  # of a run


@takes_config(ExplainConfig)
def command(
    settings: Settings[ExplainConfig],
    *,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[ARTIFACT] INPUT...",
            help="What predict takes. A leading model file, run folder or name of a run is the model "
            "(default: the newest run's).",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the pictures (default: explanations/ in the run, for images alone).",
        ),
    ] = None,
    artifact: Annotated[
        str | None,
        typer.Option("--artifact", "-a", help="The model to use. All arguments are then inputs."),
    ] = None,
    trust: Trust = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what predictions depend on: regions of images, words, columns, time steps.

    The effect of a part is how much the output changes without it: of a class in log-odds, of a number
    in the data's own units. A heat map shows where in a photo a class was found.

    Examples:
        dlcli explain some/photo.jpg
        dlcli explain some/photo.jpg --method occlusion --target blue
        dlcli explain -a cnn-digits ./new --output pictures
    """
    config = settings.resolve()
    front, arguments = ([artifact], inputs) if artifact else split_arguments("explain", inputs, runs_dir)
    paths = find_artifacts(front or [None], runs_dir)
    if len(paths) > 1:
        raise UsageError(f"explain takes one model, and {len(paths)} are given", hint="name one of them")

    from dlcli.data.kinds import ReadOptions, kind_of
    from dlcli.evaluation.explanations import Explainer, check_explained, target_index
    from dlcli.events import Warned
    from dlcli.formats.base import open_artifact, recognize
    from dlcli.ui.explain import print_explanation
    from dlcli.ui.json_output import print_json
    from dlcli.ui.progress.sinks import progress_sink

    file = recognize(paths[0])
    task, kind = file.card.task, kind_of(file.card.task)
    check_explained(task)
    target = target_index(task, config.target)
    samples = kind.inputs(arguments, task)
    if not len(samples):
        raise DlcliError(f"{listed(arguments, 5)} has no inputs to explain")
    folder = _folder(paths[0], output, pictures=task.input.kind == "image")
    model = open_artifact(file, device=config.device, trust=trust)
    explainer = Explainer(model, method=config.method, layer=config.layer)
    reader = kind.reader(samples, task, ReadOptions(workers=config.workers))
    results, failed, names = [], [], set[str]()
    # The screen is stdout: a live view would interleave with it.
    with progress_sink(True, json_output) as emit:
        for message in (*model.notes, *(n.message for n in (*samples.notices, *reader.notices))):
            emit(Warned(message))
        for index, name in enumerate(samples.ids):
            one = explainer.explain(reader, index, target)
            if one is None:
                reason = kind.why_missing(name) or reader.bad.get(name) or "it cannot be read"
                failed.append({"input": name, "error": reason})
                emit(Warned(f"{name}: {reason}"))
                continue
            picture = None if folder is None else _save(one, folder, names, arguments)
            if json_output:
                results.append({**one.to_dict(), **({"picture": str(picture)} if picture else {})})
            else:
                print_explanation(one, task, picture, first=index == 0, quiet=quiet)
    reader.close()
    if json_output:
        facts = {"command": "explain", "artifact": str(paths[0]), "task": task.kind}
        print_json({**facts, "explanations": results, "failed": failed})
    if failed:
        raise DlcliError(
            f"{len(failed)} of {len(samples)} inputs could not be read",
            hint="they are named above; the others were explained",
        )


def _folder(artifact: Path, output: Path | None, *, pictures: bool) -> Path | None:
    """The folder of the pictures; None for none. Raises: UsageError where there is no place for them."""
    if output is not None or not pictures:
        if output is not None and output.exists() and not output.is_dir():
            raise UsageError(f"--output {output} is a file", hint="name a folder for the pictures")
        return output
    run = run_of(artifact)
    if run is None:
        raise UsageError(
            f"{artifact} lies in no run, which would have a folder for pictures",
            hint="name one: --output FOLDER",
        )
    check_links(run.path)
    return run.path / FOLDER


def _save(one: Explanation, folder: Path, names: set[str], arguments: list[str]) -> Path:
    """Draw an explanation as NAME.explanation.png, numbered where two inputs have one name.

    Raises: UsageError where that is a file that was given as an input; DlcliError.
    """
    from dlcli.ui.plots.explanation import save_explanation

    stem = safe_name(Path(one.input).name)[:100]
    name, number = stem, 1
    while name in names:
        number += 1
        name = f"{stem}-{number}"
    names.add(name)
    path = folder / f"{name}.explanation.png"
    if any(path.resolve() == Path(argument).resolve() for argument in arguments):
        raise UsageError(
            f"the explanation of {printable(one.input)} would replace {path}, which is an input",
            hint="name another folder: --output FOLDER",
        )
    return save_explanation(one, path)
