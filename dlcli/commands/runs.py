"""``dlcli runs``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.commands.options import Json, RunsDir
from dlcli.errors import DlcliError, UsageError
from dlcli.runs.folder import DEFAULT_ROOT, RunFolder, as_typed, check_links, find_run
from dlcli.runs.folds import FoldsFolder
from dlcli.runs.group import RunGroup

if TYPE_CHECKING:
    from dlcli.evaluation.folds import FoldsSummary
    from dlcli.evaluation.run_summaries import RunSummary


def command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs to compare: names, folders or last."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="METRIC", help="Sort by this validation metric, best first."),
    ] = None,
    note: Annotated[
        str | None,
        typer.Option("--note", metavar="TEXT", help="Keep a note with the named runs; '' removes it."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="Also write the runs as CSV, a line each, with all metrics."),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the runs that are named, after asking.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
) -> None:
    """List the runs with their best metrics, compare some of them, or delete them.

    With several names: the settings that differ, and the metrics side by side. With one name: its
    settings that are not the default. The name of a cross-validation stands for all of its runs, after
    the figures of its held-out folds. With --delete: the named runs are deleted, of a cross-validation
    or study all of its runs. Curves of several runs in one plot: `dlcli report RUN RUN`.

    Examples:
        dlcli runs
        dlcli runs --sort accuracy --csv runs.csv
        dlcli runs cnn-digits --note "baseline, before the new photos"
    """
    if yes and not delete:
        raise UsageError("--yes is for --delete", hint="leave it out")
    if delete and (note is not None or csv is not None):
        raise UsageError("--note and --csv are not for --delete", hint="leave them out")
    if note is not None:
        _write_note(runs or [], runs_dir, note)
    if delete:
        _delete(runs or [], runs_dir, yes=yes, as_json=json_output)
    elif runs:
        if sort is not None:
            raise UsageError("--sort is for the list of all runs", hint="leave out the names")
        _compare(runs, runs_dir, json_output, csv)
    else:
        _list(runs_dir, sort, json_output, csv)


def _write_note(names: list[str], root: Path, note: str) -> None:
    """Write the note into each of the runs, or remove it."""
    from dlcli.files import write_text

    if not names:
        raise UsageError("--note needs the names of runs", hint="dlcli runs NAME --note TEXT")
    text = " ".join(note.split())
    for run in [find_run(name, root) for name in names]:
        check_links(run.path)
        if text:
            write_text(run.note, f"{text}\n")
        else:
            run.note.unlink(missing_ok=True)


def _finish_deletions(root: Path) -> list[str]:
    """Finish deletions that were killed, where that is possible; returns the names of the runs."""
    from dlcli.runs.deletion import finish_deletions
    from dlcli.wording import printable

    try:
        names = finish_deletions(root)
    except DlcliError as exc:  # the runs are listed all the same
        typer.echo(f"warning: a deletion that was interrupted: {printable(exc.message)}", err=True)
        return []
    for name in names:
        typer.echo(f"deleted {printable(name)}, as was begun before", err=True)
    return names


def _list(root: Path, sort: str | None, as_json: bool, csv: Path | None) -> None:
    from dlcli.evaluation.run_summaries import sort_by, summaries
    from dlcli.tune.study import StudyFolder
    from dlcli.ui.console import stdout
    from dlcli.ui.json_output import print_json
    from dlcli.ui.runs import print_cross_validations, print_runs
    from dlcli.wording import printable

    _finish_deletions(root)
    runs, studies = summaries(root), list(StudyFolder.below(root))
    groups = _summarised([*FoldsFolder.below(root), *_own_group(root)])
    if sort is not None and runs:
        runs = sort_by(runs, sort)
    if as_json:
        listed: dict[str, Any] = {"runs": [run.to_dict() for run in runs]}
        listed["cross_validations"] = [group.to_dict() for group in groups]
        print_json({"command": "runs", **listed, "studies": [str(s.path) for s in studies]})
    elif runs:
        print_runs(runs, sort=sort)
    elif not studies and not groups:
        stdout().print(f"no runs in {root}{os.sep}", soft_wrap=True)
        stdout().print("start one: dlcli train --model cnn --data digits", soft_wrap=True)
    if groups and not as_json:
        if runs:
            stdout().print()
        print_cross_validations(groups)
    _export(runs, csv)
    for study in () if as_json else studies:
        line = f"study {study.name}, its trials: dlcli runs --runs-dir {as_typed(study.path)}"
        stdout().print(printable(line), soft_wrap=True)


def _delete(names: list[str], root: Path, *, yes: bool, as_json: bool) -> None:
    """Delete runs, all or, where one cannot be deleted or the user says no, none."""
    from dlcli.runs.deletion import check_deletable, delete_run, size_of
    from dlcli.ui.console import stdout
    from dlcli.ui.json_output import print_json
    from dlcli.wording import plural, printable, size

    if not names:
        raise UsageError("--delete needs the names of runs", hint="dlcli runs --delete NAME")
    finished = _finish_deletions(root)
    names = [name for name in names if name not in finished or (root / name).exists()]
    chosen = list({run.path.absolute(): run for run in (_named(n, root) for n in names)}.values())
    for run in chosen:
        check_deletable(run)
    if chosen and not yes:
        if as_json or not sys.stdin.isatty():
            raise UsageError("--delete asks, and nobody can answer here", hint="add --yes")
        for run in chosen:
            files, size_bytes = size_of(run)
            facts = f"{plural(files, 'file')}, {size(size_bytes)}"
            if isinstance(run, RunGroup):
                facts = f"a {run.NOUN} of {plural(len(run.runs()), 'run')}, {facts}"
            typer.echo(f"{printable(str(run.path))}: {facts}", err=True)
        count = sum(len(run.runs()) if isinstance(run, RunGroup) else 1 for run in chosen)
        typer.confirm(f"delete {plural(count, 'run')} for good?", abort=True, err=True)
    for run in chosen:
        delete_run(run)
        if not as_json:
            stdout().print(f"deleted {printable(str(run.path))}", soft_wrap=True)
    if as_json:
        print_json({"command": "runs", "deleted": [str(run.path) for run in chosen]})


def _named(name: str, root: Path) -> RunFolder | RunGroup:
    """The run, cross-validation or study of a name. Raises: DlcliError where there is none."""
    from dlcli.tune.study import StudyFolder

    return FoldsFolder.find(name, root) or StudyFolder.find(name, root) or find_run(name, root)


def _summarised(groups: Sequence[FoldsFolder]) -> list[FoldsSummary]:
    if not groups:
        return []
    from dlcli.report.folds import summarise_folds

    return [summarise_folds(group) for group in groups]


def _own_group(root: Path) -> list[FoldsFolder]:
    """The cross-validation whose folder ``root`` itself is."""
    group = FoldsFolder(root)
    return [group] if group.record.is_file() else []


def _compare(names: list[str], root: Path, as_json: bool, csv: Path | None) -> None:
    from dlcli.evaluation.run_summaries import DEFAULTS, differences, summarise
    from dlcli.ui.json_output import print_json
    from dlcli.ui.runs import print_differences, print_problems

    named = {name: FoldsFolder.find(name, root) for name in names}
    groups = [group for group in named.values() if group is not None]
    for group in groups:
        if not group.begun():
            raise DlcliError(
                f"no fold of {group.path} has begun", hint=f"train them: {group.resume_command}"
            )
    chosen = [
        run
        for name, group in named.items()
        for run in (group.begun() if group else [find_run(name, root)])
    ]
    folded = _summarised(groups)
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
        compared: dict[str, Any] = {"runs": listed, "differences": by_run, "unread": unread}
        if folded:
            compared["cross_validations"] = [group.to_dict() for group in folded]
        print_json({"command": "runs", **compared})
    else:
        for group_summary in folded:
            _print_folded(group_summary)
        print_differences(runs, rows, last=last)
        print_problems(unread, before=True)
    _export(runs, csv)


def _print_folded(group: FoldsSummary) -> None:
    """Print the held-out folds of a cross-validation, or, where they have no figures yet, its state."""
    from dlcli.ui.console import stdout
    from dlcli.ui.folds import print_held_out
    from dlcli.ui.runs import print_cross_validations
    from dlcli.ui.sections import Row

    if group.result is None:
        print_cross_validations([group])
    else:
        page = FoldsFolder(Path(group.path)).report
        rows = [Row("report", str(page))] if page.is_file() else []
        print_held_out(group.result, group.name, rows)
    stdout().print()


def _export(runs: Sequence[RunSummary], path: Path | None) -> None:
    from dlcli.ui.runs import write_csv

    if path is not None:
        write_csv(path, runs)
