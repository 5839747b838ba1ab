"""Worker process of a benchmark: opens one model file, and times it or predicts with it.

It reads requests from stdin, a JSON object per line, and writes a reply to each. Whatever libraries
print goes to stderr.
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
from dlcli.machine.load import queue_wait_s
from dlcli.wording import first_line

if TYPE_CHECKING:
    from dlcli.benchmark.backends import Runner, TimedCall
    from dlcli.data.base import Inputs

WARMUP_S, WARMUP_CALLS = 0.2, 3  # before anything is timed
REWARM_S = 0.02  # untimed calls in each turn: another worker has used caches and changed clock rates
# The threads of a pool spin for a while before they sleep. A worker replies once its own are idle:
# together at less than a fifth of a core over 5 ms.
_IDLE_INTERVAL_S, _IDLE_CORES, _SPIN_LIMIT_S = 0.005, 0.2, 1.0
_FINE_CLOCK_S = 1e-5  # Windows counts CPU time in steps of 0.0156 s


def main(argv: list[str]) -> None:
    """Open the file of a job (JSON in ``argv[0]``), reply, then serve requests until stdin ends."""
    job = json.loads(argv[0])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
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


def _reply(stream: IO[str], reply: Mapping[str, Any]) -> None:
    stream.write(json.dumps(reply) + "\n")
    stream.flush()


class Session:
    """The opened file, and a prepared call for each batch size."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        """Open the file. Raises: DlcliError."""
        from dlcli.benchmark.backends import make_runner
        from dlcli.formats.base import open_artifact

        self._job = job
        self._inputs = _load(job["inputs"])
        path, device, threads = Path(job["path"]), job["device"], job["threads"]
        if job["raw"]:
            from dlcli.benchmark.raw import RawOnnx, RawRunner
            from dlcli.formats.base import Runtime

            self._runner: Runner = RawRunner(RawOnnx(path, Runtime(device, threads)), device)
        else:
            self._runner = make_runner(
                lambda: open_artifact(path, device=device, threads=threads, trust=job["trust"]),
                backend=job["backend"],
                device=device,
                amp=job["amp"],
            )
        self._calls: dict[int, TimedCall] = {}

    def ready(self) -> dict[str, Any]:
        """Run the model once, and return where it runs."""
        self._call(self._job["first"]).run()
        device = self._runner.device(self._job["threads"])
        return {"device": device, "provider": self._runner.provider}

    def serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to one request, or ``error``."""
        op = request.pop("op")
        try:
            reply: dict[str, Any] = getattr(self, f"_{op}")(**request)
            return reply
        except DlcliError as exc:
            return {"error": exc.message, "hint": exc.hint}
        except Exception as exc:  # each runtime has its own types; the row of the file shows it
            return {"error": f"{type(exc).__name__}: {first_line(exc)}"}

    def _warmup(self, batch_size: int, limit_s: float) -> dict[str, Any]:
        call = self._call(batch_size)
        _repeat(call, WARMUP_S, WARMUP_CALLS, limit_s)
        _wait_until_idle()
        return {}

    def _time(self, batch_size: int, seconds: float, min_calls: int, limit_s: float) -> dict[str, Any]:
        call = self._call(batch_size)
        gc.collect()
        gc.disable()
        try:
            _repeat(call, REWARM_S, 1, limit_s)
            queued_s, t0 = queue_wait_s(), time.perf_counter()
            pairs = _repeat(call, seconds, min_calls, limit_s)
            turn_s = time.perf_counter() - t0
            queued_after_s = queue_wait_s()
        finally:
            gc.enable()
        idle_after_s = _wait_until_idle()
        cpu_s = _fine([cpu for _, cpu in pairs])
        waited = None
        if queued_s is not None and queued_after_s is not None:
            waited = (queued_after_s - queued_s) / turn_s
        elif self._job["threads"] == 1 and self._job["device"] == "cpu":
            waited = max(0.0, 1 - sum(cpu_s) / sum(wall for wall, _ in pairs))
        return {
            "ms": [round(1000 * wall, 5) for wall, _ in pairs],
            "cpu_ms": [round(1000 * cpu, 5) for cpu in cpu_s],
            "waited": waited,
            "spinning": idle_after_s >= _SPIN_LIMIT_S,
        }

    def _memory(self) -> dict[str, Any]:
        return {"peak_mib": self._runner.peak_mib()}

    def _predict(self, inputs: str, output: str) -> dict[str, Any]:
        outputs = self._runner.predict(_load(inputs))
        np.save(output, outputs, allow_pickle=False)
        _wait_until_idle()
        return {}

    def _macs(self) -> dict[str, Any]:
        return {"macs": self._runner.macs()}

    def _call(self, batch_size: int) -> TimedCall:
        if batch_size not in self._calls:
            batch = tuple(array[:batch_size] for array in self._inputs)
            self._calls[batch_size] = self._runner.prepare(batch)
        return self._calls[batch_size]


def _load(path: str) -> Inputs:
    with np.load(path, allow_pickle=False) as arrays:
        return tuple(arrays[name] for name in arrays.files)


def _repeat(
    call: TimedCall, seconds: float, min_calls: int, limit_s: float
) -> list[tuple[float, float]]:
    """Return wall and CPU time of calls in s: at least ``seconds`` in total and ``min_calls`` of them.

    After ``limit_s`` none is begun, beyond the first.
    """
    pairs: list[tuple[float, float]] = []
    total, end = 0.0, time.perf_counter() + limit_s
    while total < seconds or len(pairs) < min_calls:
        pairs.append(call.run())
        total += pairs[-1][0]
        if time.perf_counter() > end:
            break
    return pairs


def _fine(cpu_s: list[float]) -> list[float]:
    """Return CPU times of single calls; their mean for each where the clock ticks too coarsely."""
    if time.get_clock_info("process_time").resolution < _FINE_CLOCK_S:
        return cpu_s
    return [sum(cpu_s) / len(cpu_s)] * len(cpu_s)


def _wait_until_idle() -> float:
    """Wait until the threads of this process sleep; return the wait in s, at most `_SPIN_LIMIT_S`."""
    t0 = time.perf_counter()
    while (waited := time.perf_counter() - t0) < _SPIN_LIMIT_S:
        cpu_s = time.process_time()
        time.sleep(_IDLE_INTERVAL_S)
        if time.process_time() - cpu_s < _IDLE_CORES * _IDLE_INTERVAL_S:
            return waited
    return waited
