"""``dlcli ship``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dlcli.commands.options import Artifact, Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.commands.train_session.finetune import make_resuming_finetuner
from dlcli.config import ShipSettings
from dlcli.errors import BoundMissed, Interrupted
from dlcli.runs.folder import DEFAULT_ROOT, find_artifact
from dlcli.runs.locks import run_lock
from dlcli.signals import signum_of

# It chooses on val and tells on test; the others are rarely set.
_WITHOUT = ("measure.split",)
_ADVANCED = ("finetune.lr", "finetune.device", "measure.latency")


@takes_config(ShipSettings, without=_WITHOUT, advanced=_ADVANCED)
def command(
    settings: Settings[ShipSettings],
    *,
    artifact: Artifact = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write (default: ship/TARGET in the run)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be tried, and how long it takes.")
    ] = False,
    trust: Trust = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the smallest and fastest file that is accurate enough, and make a folder of it.

    Integer weights, pruning and both together are tried in the order of their cost. The choice is made
    on val, the figure told on test. What is finished is not done again: stopped, the same command goes
    on. If no attempt keeps the bounds, the exit code is 3, and the folder has the best one.

    Examples:
        dlcli ship
        dlcli ship cnn-digits --target arm --max-drop 0.01 --max-size 3MB
        dlcli ship --target browser --max-time 30min --dry-run
    """
    config = settings.resolve()
    path = find_artifact(artifact, runs_dir)

    from dlcli.deploy.ship.folder import (
        check_folder,
        new_folder,
        write_checks,
        write_model,
        write_sums,
    )
    from dlcli.deploy.ship.ship import ShipJob, once, ship_folder
    from dlcli.deploy.ship.targets import target_of
    from dlcli.formats.base import open_artifact
    from dlcli.report.ship import write_ship
    from dlcli.runs.folder import run_of
    from dlcli.ui.json_output import print_json
    from dlcli.ui.progress.sinks import progress_sink
    from dlcli.ui.ship import plan_facts, print_plan, print_shipped

    target = target_of(config)
    folder = output or ship_folder(path) / target.name
    check_folder(folder)
    try:
        with progress_sink(quiet, json_output) as emit:
            source = open_artifact(path, device="cpu", trust=trust)
            finetuner = partial(make_resuming_finetuner, show=emit)
            job = ShipJob(source, config, finetuner, trust, emit)
            done = job.done_before()
        if dry_run and json_output:
            print_json(plan_facts(job, done))
        elif dry_run or not (quiet or json_output):
            print_plan(job, done, to_stderr=not dry_run)
        if dry_run:
            return
        run = run_of(path)
        lock = ship_folder(path) if run is None else run.path
        lock.mkdir(parents=True, exist_ok=True)
        with run_lock(lock), progress_sink(quiet, json_output) as emit:
            job.emit, job.finetuner = once(emit), partial(make_resuming_finetuner, show=emit)
            shipped = job.run()
            with new_folder(folder) as staged:
                notes = write_model(shipped, job.reference, staged)
                result = write_checks(shipped, notes, staged)
                write_ship(result, staged / "report.html")
                write_sums(staged)
    except (KeyboardInterrupt, Interrupted) as exc:
        signum = exc.exit_code - 128 if isinstance(exc, Interrupted) else signum_of(exc)
        raise Interrupted(
            "interrupted; finished attempts are kept",
            signum=signum,
            hint="the same command goes on",
        ) from exc
    if json_output:
        print_json({**result, "output": str(folder)})
    else:
        print_shipped(shipped, result, folder)
    if shipped.missed:
        raise BoundMissed(
            f"no attempt keeps the bounds; the best is {shipped.chosen.label}: {shipped.missed[0]}",
            hint=f"it is in {folder}; allow more, or give more time",
        )
