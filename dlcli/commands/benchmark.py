"""``dlcli benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcli.commands.adopting import adopted_for
from dlcli.commands.options import Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.commands.recording import record
from dlcli.config import BenchConfig
from dlcli.errors import DlcliError
from dlcli.files import user_path
from dlcli.runs.folder import DEFAULT_ROOT, RunFolder, find_run, is_model_path, newest_run, run_of

if TYPE_CHECKING:
    from dlcli.benchmark.report import BenchmarkResult
    from dlcli.events import Emit
    from dlcli.formats.base import ModelFile


@takes_config(BenchConfig)
def command(
    settings: Settings[BenchConfig],
    *,
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARTIFACT]...",
            help="Model files; a run's folder or name means all its files (default: the newest run).",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="Also write the results as CSV, a line for each row and batch size."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="PNG file of the plot (default: plots/benchmark.png of the run)."),
    ] = None,
    trust: Trust = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time model files side by side: latency, throughput, memory, size, accuracy.

    Each file is loaded in its own process, and the timings are interleaved. Only the forward pass on
    prepared tensors is timed, without decoding and normalization. All files are compared with the
    first. If one fails, the others are still measured and the exit code is 1.

    Examples:
        dlcli benchmark
        dlcli benchmark cnn-digits resnet18-imgs --batch-sizes 1,32
        dlcli benchmark cnn-digits --csv timings.csv
    """
    config = settings.resolve()
    from dlcli.benchmark.run import benchmark
    from dlcli.events import Warned
    from dlcli.ui.benchmark import print_benchmark, write_csv
    from dlcli.ui.json_output import print_json
    from dlcli.ui.plots.benchmark import save_benchmark
    from dlcli.ui.progress.sinks import progress_sink

    with progress_sink(quiet, json_output) as emit:
        paths = _paths(artifacts, runs_dir, emit)
    known = [file for path in paths if (file := _recognized(path)) is not None]
    adopted = adopted_for(known, config.data, target=config.target, trust=trust)
    with progress_sink(quiet, json_output) as emit, adopted as (opened, assumed):
        for message in assumed:
            emit(Warned(message))
        by_path = {file.path: file for file in opened}
        result = benchmark([by_path.get(p, p) for p in paths], config, trust=trust, emit=emit)
        picture = plot or _draw(result, emit)
        if _run_of_all(result) is not None:
            facts = result.to_dict()
            record([result.rows[0].path], "benchmark", command="benchmark", result=facts, emit=emit)
    files = {"csv": csv, "plot": picture}
    if json_output:
        print_json({"command": "benchmark", "artifact": str(paths[0]), **result.to_dict(), **files})
    else:
        print_benchmark(result, files)
    if csv is not None:  # after printing, so that a failed write loses no results
        write_csv(csv, result)
    if plot is not None:
        save_benchmark(plot, result)
    if failed := result.failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise DlcliError(
            f"{len(failed)} of {len(result.rows)} rows failed: {failed[0].path}{more}",
            hint=failed[0].error,
        )


def _paths(named: list[str] | None, runs_dir: Path, emit: Emit) -> list[Path]:
    """Return the files, each once. A missing one stays in the list: its row has the error."""
    from dlcli.benchmark.run import artifacts_of

    if not named:
        return artifacts_of(newest_run(runs_dir), emit)
    paths: list[Path] = []
    for text in map(user_path, named):
        path = Path(text)
        missing = path.suffix and not path.exists() and not (runs_dir / text).is_dir()
        if is_model_path(path) or missing:
            paths.append(path)
        else:
            paths += artifacts_of(find_run(text, runs_dir), emit)
    return list(dict.fromkeys(paths))


def _recognized(path: Path) -> ModelFile | None:
    """Return the model file; None where there is none, which the row of the path says."""
    from dlcli.formats.base import recognize

    try:
        return recognize(path)
    except DlcliError:
        return None


def _run_of_all(result: BenchmarkResult) -> RunFolder | None:
    """Return the run folder that holds all files, if one does."""
    runs = [run_of(row.path) for row in result.rows]
    folders = {None if run is None else run.path.resolve() for run in runs}
    return runs[0] if len(folders) == 1 else None


def _draw(result: BenchmarkResult, emit: Emit) -> Path | None:
    """Plot into the run folder that holds all files, if one does."""
    from dlcli.events import Warned
    from dlcli.ui.plots.benchmark import save_benchmark

    run = _run_of_all(result)
    if run is None or not any(row.timing and row.timing.speeds for row in result.rows):
        return None
    try:
        return save_benchmark(run.plots / "benchmark.png", result)
    except DlcliError as exc:  # a read-only run can still be measured
        emit(Warned(f"no plot: {exc.message}"))
        return None
