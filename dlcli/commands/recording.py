"""Record what a command measured in the runs of its files, and write their reports anew.

What was measured is printed in any case: a run that cannot be written costs one warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.errors import DlcliError
from dlcli.runs.folder import RunFolder, check_links, run_of

if TYPE_CHECKING:
    from dlcli.evaluation.metrics import EvalResult
    from dlcli.events import Emit


def record(
    files: Iterable[Path], name: str, *, command: str, result: Mapping[str, Any], emit: Emit
) -> None:
    """Record a result in the run of each of the ``files``, where they lie in one, once a run."""
    runs = (run_of(file) for file in files)
    for run in {one.path.resolve(): one for one in runs if one is not None}.values():
        _record(run, partial(_write_result, run, name, command, result), emit)


def record_evaluations(run: RunFolder, results: Iterable[EvalResult], command: str, emit: Emit) -> None:
    """Record evaluations of a run's best model on its own splits."""
    from dlcli.evaluation.run_summaries import record_evaluation

    def write(model: Mapping[str, float]) -> None:
        for result in results:
            record_evaluation(run, model, result, command)

    _record(run, write, emit)


def _write_result(
    run: RunFolder, name: str, command: str, result: Mapping[str, Any], model: Mapping[str, float]
) -> None:
    from dlcli.runs.measurements import write_measurement

    write_measurement(run, name, command=command, model=model, result=result)


def _record(run: RunFolder, write: Callable[[Mapping[str, float]], None], emit: Emit) -> None:
    """Call ``write`` with the metrics on val of the run's best model, then write the report."""
    from dlcli.events import Warned
    from dlcli.formats.base import read_card
    from dlcli.report.page import write_report

    try:
        check_links(run.path)
        # Of a run that was interrupted before its first epoch there is no model yet.
        write(read_card(run.best).metrics.get("val", {}) if run.best.is_file() else {})
        write_report(run)
    except DlcliError as exc:
        emit(Warned(f"not in the report of run {run.name}: {exc.message}"))
