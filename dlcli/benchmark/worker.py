"""A worker of a benchmark: it opens one file, and times or answers what the parent asks for.

``main(job)`` reads requests from stdin, a JSON object a line, and answers each with one. Whatever
libraries print goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from dlcli.errors import DlcliError
from dlcli.subprocesses import die_with_parent
from dlcli.wording import first_line

if TYPE_CHECKING:
    from dlcli.benchmark.backends import Call, Runner
    from dlcli.data.base import Inputs

WARM_S, WARM_CALLS = 0.2, 3  # before anything is timed
WAKE_S = 0.02  # untimed calls at the start of a turn: caches and clocks are the last one's
# Threads of a pool spin for a while before they sleep. A worker answers when its own lie still:
# less than a fifth of one core, seen over 5 ms.
_LOOK_S, _STILL, _SPIN_LIMIT_S = 0.005, 0.2, 1.0


def main(argv: list[str]) -> None:
    """Open the file of a job (JSON in ``argv[0]``), reply, then serve requests until stdin ends."""
    job = json.loads(argv[0])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    die_with_parent(job["parent"])
    session = None
    try:
        session = Session(job)
        _reply(replies, session.ready())
    except DlcliError as exc:
        _reply(replies, {"error": exc.message, "hint": exc.hint})
    for line in sys.stdin:
        if session is None:
            break
        _reply(replies, session.serve(json.loads(line)))


def _reply(stream: IO[str], answer: Mapping[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


class Session:
    """The opened file and the calls that are prepared for each batch size."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        """Open it. Raises: DlcliError."""
        from dlcli.benchmark.backends import make_runner
        from dlcli.formats.base import open_artifact

        self._job = job
        self._inputs = _load(job["inputs"])
        self._runner: Runner = make_runner(
            lambda: open_artifact(
                Path(job["path"]), device=job["device"], threads=job["threads"], trust=job["trust"]
            ),
            backend=job["backend"],
            device=job["device"],
            amp=job["amp"],
        )
        self._calls: dict[int, Call] = {}

    def ready(self) -> dict[str, Any]:
        """The first answer is there."""
        self._call(self._job["first"]).run()
        return {"device": self._runner.device(self._job["threads"])}

    def serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, or ``error``."""
        op = request.pop("op")
        try:
            answer: dict[str, Any] = getattr(self, f"_{op}")(**request)
            return answer
        except DlcliError as exc:
            return {"error": exc.message, "hint": exc.hint}
        except Exception as exc:  # every runtime has its own; the parent makes a row of it
            first = first_line(exc)
            return {"error": f"{type(exc).__name__}: {first}"}

    def _warm(self, batch_size: int) -> dict[str, Any]:
        call = self._call(batch_size)
        _repeat(call, WARM_S, WARM_CALLS)
        return {"still_s": _fall_still()}

    def _time(self, batch_size: int, seconds: float, least: int) -> dict[str, Any]:
        call = self._call(batch_size)
        gc.collect()
        gc.disable()
        try:
            _repeat(call, WAKE_S, 1)
            found = _repeat(call, seconds, least)
        finally:
            gc.enable()
        still_s = _fall_still()
        return {
            "ms": [round(1000 * s, 5) for s in found],
            "still_s": still_s,
            "restless": still_s >= _SPIN_LIMIT_S,
        }

    def _memory(self) -> dict[str, Any]:
        return {"peak_mib": self._runner.peak_mib()}

    def _answer(self, inputs: str, output: str) -> dict[str, Any]:
        answers = self._runner.answer(_load(inputs))
        np.save(output, answers, allow_pickle=False)
        _fall_still()
        return {}

    def _macs(self) -> dict[str, Any]:
        return {"macs": self._runner.macs()}

    def _call(self, batch_size: int) -> Call:
        if batch_size not in self._calls:
            some = tuple(array[:batch_size] for array in self._inputs)
            self._calls[batch_size] = self._runner.prepare(some)
        return self._calls[batch_size]


def _load(path: str) -> Inputs:
    with np.load(path, allow_pickle=False) as arrays:
        return tuple(arrays[name] for name in arrays.files)


def _repeat(call: Call, seconds: float, least: int) -> list[float]:
    """Seconds of each call, until they are ``seconds`` together and at least ``least`` calls."""
    found: list[float] = []
    spent = 0.0
    while spent < seconds or len(found) < least:
        found.append(call.run())
        spent += found[-1]
    return found


def _fall_still() -> float:
    """Wait until this process's threads sleep; the seconds that took, at most `_SPIN_LIMIT_S`."""
    t0 = time.perf_counter()
    while (waited := time.perf_counter() - t0) < _SPIN_LIMIT_S:
        busy = time.process_time()
        time.sleep(_LOOK_S)
        if time.process_time() - busy < _STILL * _LOOK_S:
            return waited
    return waited
