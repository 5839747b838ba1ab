"""``dlcli prune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcli.commands.options import Artifact, Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.commands.recording import record
from dlcli.commands.train_session.finetune import make_finetuner
from dlcli.config import PruneSettings
from dlcli.config.prune import check_pruning
from dlcli.errors import BoundMissed, DlcliError
from dlcli.runs.folder import DEFAULT_ROOT, find_artifact

if TYPE_CHECKING:
    from dlcli.deploy.prune.prune import PruneResult
    from dlcli.events import Emit


@takes_config(PruneSettings)
def command(
    settings: Settings[PruneSettings],
    *,
    artifact: Artifact = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Name of the new run (default: by model and method); a search adds the amount.",
        ),
    ] = None,
    runs_dir: RunsDir = DEFAULT_ROOT,
    trust: Trust = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove weights or whole channels, fine-tune, and measure what that costs.

    The result is a run of its own. --method channel removes channels, which makes the model smaller and
    faster; the other methods set weights to zero, which makes the file smaller. With --max-drop and no
    --amount, the largest amount within the bound is searched. If the bound is missed, the exit code is
    3, and the model is kept.

    Examples:
        dlcli prune --amount 0.5
        dlcli prune cnn-digits --method channel --target-macs 0.5
        dlcli prune --max-drop 0.01
    """
    config = settings.resolve()
    check_pruning(config)
    path = find_artifact(artifact, runs_dir)

    from dlcli.deploy.prune.options import targets_of
    from dlcli.deploy.prune.prune import prune
    from dlcli.ui.json_output import print_json
    from dlcli.ui.progress.sinks import progress_sink
    from dlcli.ui.prune import print_pruning

    targets_of(config)  # refuses settings that do not go together
    with progress_sink(quiet, json_output) as emit:
        result = prune(
            path,
            config,
            name=name,
            runs_dir=runs_dir,
            finetuner=make_finetuner(runs_dir, emit),
            trust=trust,
            emit=emit,
        )
        plots = _plot(result, emit)
        files = (path, result.chosen.file.path)
        record(files, f"prune-{result.run.name}", command="prune", result=result.to_dict(), emit=emit)
    if json_output:
        print_json({"command": "prune", **result.to_dict(), "plots": [str(plot) for plot in plots]})
    else:
        print_pruning(result)
    if result.missed is not None:
        raise BoundMissed(
            result.missed,
            hint=f"the model is kept: {result.comparison.after.artifact}; prune less, or more epochs",
        )


def _plot(result: PruneResult, emit: Emit) -> list[Path]:
    from dlcli.events import Warned
    from dlcli.runs.folder import RunFolder
    from dlcli.ui.prune import save_pruning

    try:
        return [save_pruning(RunFolder(result.run).plots / "pruning.png", result)]
    except DlcliError as exc:  # a failed plot is a warning
        emit(Warned(f"no plot: {exc.message}"))
        return []
