"""Runs that have not ended, such as the fine-tuning of a `prune` or `quantize` that was killed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dlcli.errors import DlcliError
from dlcli.runs.folder import RunFolder, list_runs
from dlcli.runs.locks import is_locked

ENDED = ("finished", "running")  # statuses of runs that there is nothing to say about


def status_of(run: RunFolder, record: Mapping[str, Any]) -> str:
    """Return the status in a run's record; "stopped" for "running" where no process holds its lock."""
    status = str(record.get("status", "unknown"))
    return "stopped" if status == "running" and not is_locked(run.path) else status


def parent_of(record: Mapping[str, Any]) -> str:
    """Return the path of the model that a run fine-tunes, "" for any other run."""
    plan = record.get("plan")
    parent = plan.get("parent") if isinstance(plan, Mapping) else None
    return os.path.join(str(record.get("cwd", "")), parent) if isinstance(parent, str) else ""


def unfinished_finetuning(root: Path, parent: str, name: str) -> list[RunFolder]:
    """Return the runs below ``root`` that fine-tune the model ``parent``, or are called ``name``.

    Only runs that neither ended nor train now.
    """
    runs = []
    for run in list_runs(root):
        with suppress(DlcliError):  # a damaged record is named by `dlcli runs`
            record = run.read_record()
            own = parent_of(record)
            same = own and (run.name == name or os.path.realpath(own) == os.path.realpath(parent))
            if same and status_of(run, record) not in ENDED:
                runs.append(run)
    return runs
