"""``dlcli runs``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from dlcli.commands.options import Json, RunsDir
from dlcli.errors import UsageError
from dlcli.runs.folder import DEFAULT_ROOT, find_run


def command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs to compare: names, folders or last."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="METRIC", help="Sort by this validation metric, best first."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
) -> None:
    """List the runs with their best metrics, or compare some of them.

    With several names: the settings that differ, and the metrics side by side. With one name: its
    settings that are not the default.
    """
    if runs:
        if sort is not None:
            raise UsageError("--sort is for the list of all runs", hint="leave out the names")
        _compare(runs, runs_dir, json_output)
    else:
        _list(runs_dir, sort, json_output)


def _list(root: Path, sort: str | None, as_json: bool) -> None:
    from dlcli.evaluation.run_summaries import sort_by, summaries
    from dlcli.ui.console import stdout
    from dlcli.ui.json_output import print_json
    from dlcli.ui.runs import print_runs

    runs = summaries(root)
    if sort is not None and runs:
        runs = sort_by(runs, sort)
    if as_json:
        print_json({"command": "runs", "runs": [run.to_dict() for run in runs]})
    elif runs:
        print_runs(runs, sort=sort)
    else:
        stdout().print(f"no runs in {root}{os.sep}", soft_wrap=True)
        stdout().print("start one: dlcli train --model cnn --data digits", soft_wrap=True)


def _compare(names: list[str], root: Path, as_json: bool) -> None:
    from dlcli.evaluation.run_summaries import DEFAULTS, differences, summarise
    from dlcli.ui.json_output import print_json
    from dlcli.ui.runs import print_differences, print_problems

    chosen = [find_run(name, root) for name in names]
    folders = list({run.path.resolve(): run for run in chosen}.values())  # "last" may be named too
    runs = [summarise(run) for run in folders]
    rows, unread = differences(folders)
    unread = {run.name: "; ".join(run.problems) for run in runs if run.problems} | unread
    last = DEFAULTS if len(runs) == 1 else None
    if as_json:
        heads = [*(run.path for run in runs), *([last] if last else [])]
        by_run: dict[str, dict[str, Any]] = {
            key: dict(zip(heads, values, strict=True)) for key, values in rows.items()
        }
        listed = [run.to_dict() for run in runs]
        print_json({"command": "runs", "runs": listed, "differences": by_run, "unread": unread})
    else:
        print_differences(runs, rows, last=last)
        print_problems(unread, before=True)
