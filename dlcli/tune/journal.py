"""The journal of a study: Optuna's operations, one line of JSON each, and what a kill or a disk leaves.

The lines are those of Optuna's own `JournalFileBackend`, which opens an undamaged journal too. That one
stops at a damaged line, writes after an incomplete one without ending it, and after a kill waits 30 s
for a lock file. Here damaged lines are skipped and counted, and the lock is the operating system's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from dlcli.files import fsync_path, parse_json, writing
from dlcli.runs.locks import run_lock
from dlcli.wording import plural

RUN = "run"  # attribute of a trial: the name of its folder, which has its number
LOST = "its line in the journal is damaged"
_LOCK_S = 120.0  # for a process that writes a few lines
_CREATE_STUDY, _CREATE_TRIAL = 0, 4  # optuna.storages.journal.JournalOperation
_NEVER = "1970-01-01T00:00:00.000000+00:00"


class Journal(BaseJournalBackend):
    """The file of a study's operations.

    Trials are numbered by the lines that create them. Where such a line is damaged, the name of the
    next trial shows it, and a failed trial stands in its place. ``damaged`` counts lines.
    """

    def __init__(self, path: Path, study_name: str, directions: Sequence[int]) -> None:
        self.path = path
        self.damaged = 0
        self._header = {
            "op_code": _CREATE_STUDY,
            "worker_id": "dlcli",
            "study_name": study_name,
            "directions": [2 if direction > 0 else 1 for direction in directions],  # StudyDirection
        }
        self._logs: list[dict[str, Any]] = []
        self._offset = 0
        self._trials = 0
        with self.locked(), writing(path):
            path.touch()

    def locked(self) -> Any:
        """Return a context that no other process of the study is in at the same time."""
        return run_lock(self.path.parent, grace_s=_LOCK_S)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from a number on. An incomplete last line is not there yet."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.split(b"\n")[:-1]:
            self._add(line)
        yield from self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations, after ending a line that a kill left incomplete. Raises: DlcliError."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self.locked(), writing(self.path):
            with self.path.open("a+b") as file:
                if file.seek(0, 2) and not self._ends_with_newline(file):
                    file.write(b"\n")
                file.write(text.encode("utf-8"))
            fsync_path(self.path)

    @staticmethod
    def _ends_with_newline(file: Any) -> bool:
        file.seek(-1, 2)
        return bool(file.read(1) == b"\n")

    def _add(self, line: bytes) -> None:
        try:
            log = parse_json(line)
            code = log["op_code"]
        except (ValueError, TypeError, KeyError):
            self.damaged += 1
            return
        if not self._logs and code != _CREATE_STUDY:
            self._logs.append(self._header)
        if code == _CREATE_TRIAL:
            name = str(log.get("user_attrs", {}).get(RUN, ""))
            number = int(name.rpartition("-")[2]) if name else self._trials
            self._logs += [self._lost(i) for i in range(self._trials, number)]
            self._trials = max(self._trials, number) + 1
        self._logs.append(log)

    def _lost(self, number: int) -> dict[str, Any]:
        return {
            "op_code": _CREATE_TRIAL,
            "worker_id": "dlcli",
            "study_id": 0,
            "state": TrialState.FAIL,
            "value": None,
            "values": None,
            "datetime_start": _NEVER,
            "datetime_complete": _NEVER,
            "distributions": {},
            "params": {},
            "user_attrs": {RUN: f"trial-{number:03d}", "reason": LOST},
            "system_attrs": {},
            "intermediate_values": {},
        }


def damage_note(journal: Journal) -> str:
    """Say how many lines of a journal that was read are left out as damaged, else ""."""
    if not journal.damaged:
        return ""
    lines = plural(journal.damaged, "damaged line")
    return (
        f"{lines} of {journal.path} left out: their trials may be lost to the study, their runs are not"
    )
