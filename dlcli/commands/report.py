"""``dlcli report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlcli.commands.options import Json, RunsDir
from dlcli.errors import UsageError
from dlcli.runs.folder import DEFAULT_ROOT, RunFolder, check_links, find_run
from dlcli.runs.folds import FoldsFolder


def command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="A run's name or folder (default: the newest run). Several are shown side by side; the "
            "name of a cross-validation or a study gives its own page.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="HTML file to write (default: report.html of the run or study, or of --runs-dir).",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
) -> None:
    """Write the report of a run, or of several side by side: one HTML file that needs no network.

    It shows what is recorded: curves, metrics with intervals and baselines, where the model errs, its
    worst samples, exports and timings, data, settings and commands. `train` writes it, and `eval`,
    `export`, `quantize`, `prune` and `benchmark` write it anew.

    Examples:
        dlcli report --open
        dlcli report cnn-digits --output digits.html
        dlcli report cnn-digits resnet18-imgs
    """
    from dlcli.files import user_path
    from dlcli.report.page import write_folds, write_study
    from dlcli.tune.study import StudyFolder
    from dlcli.ui.console import stdout
    from dlcli.ui.json_output import print_json
    from dlcli.wording import printable

    target = None if output is None else Path(user_path(output))
    if target is not None:
        _check_target(target)
    only = runs[0] if runs and len(runs) == 1 else None
    study = None if only is None else StudyFolder.find(only, runs_dir)
    group = None if only is None else FoldsFolder.find(only, runs_dir)
    if study is not None:
        path = write_study(study, target)
        chosen = study.runs()
    elif group is not None:
        path = write_folds(group, target)
        chosen = group.begun()
    else:
        chosen = _chosen(runs or ["last"], runs_dir)
        path = _write_runs(chosen, target, runs_dir)
    opened = _open(path) if show else None
    if json_output:
        facts = {"runs": [str(run.path) for run in chosen], "report": str(path)}
        print_json({"command": "report", **facts, "bytes": path.stat().st_size, "opened": opened})
        return
    stdout().print(printable(str(path)), soft_wrap=True)
    if opened is False:
        typer.echo("no browser could be started: open the file yourself", err=True)


def _chosen(names: list[str], root: Path) -> list[RunFolder]:
    named = [run for text in names for run in _runs(text, root)]
    return list({run.path.resolve(): run for run in named}.values())  # "last" may be named too


def _write_runs(chosen: list[RunFolder], target: Path | None, root: Path) -> Path:
    from dlcli.report.page import write_comparison, write_report

    if len(chosen) > 1:
        return write_comparison(chosen, target or root / "report.html")
    if target is None:
        check_links(chosen[0].path)
    return write_report(chosen[0], target)


def _runs(text: str, root: Path) -> list[RunFolder]:
    """Return the run that a text names; of a cross-validation those of its folds that have begun."""
    group = FoldsFolder.find(text, root)
    return [find_run(text, root)] if group is None else group.begun()


def _check_target(target: Path) -> None:
    """Raises: UsageError for a name that is not that of a page."""
    if target.suffix.lower() not in (".html", ".htm") or target.is_dir():
        raise UsageError(
            f"--output {target}: a report is an HTML file",
            hint=f"--output {target.with_suffix('.html')}",
        )


def _open(path: Path) -> bool:
    import webbrowser

    return webbrowser.open(path.resolve().as_uri())
