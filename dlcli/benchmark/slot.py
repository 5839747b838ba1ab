"""One file of an interleaved benchmark: its worker, its turns so far, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlcli.benchmark.process import Worker, WorkerLost
from dlcli.benchmark.statistics import Speed, doubt_inversions, speed_of
from dlcli.machine.load import MAX_WAIT, cores_taken

START_S, COMPILE_S = 60.0, 600.0  # of the default limit, for each file


@dataclass(frozen=True)
class RunSpec:
    """A file and how to run it; ``backend`` is for torch models (eager, channels-last, compile, ...).

    ``raw``: an ONNX file without a card, as it is.
    """

    path: Path
    backend: str = "eager"
    device: str = "cpu"
    amp: str = "none"
    trust: bool = False
    raw: bool = False


@dataclass(frozen=True)
class Timing:
    """The measurements of one file; ``error`` is why there are none.

    ``failed`` are the batch sizes that could not be run, with the reason. ``peak_mib`` is the peak
    resident memory of the process up to the end of timing, libraries included; on a GPU what torch
    allocated there. ``spinning`` is whether its threads kept spinning between its turns.
    """

    spec: RunSpec
    speeds: dict[int, Speed]
    startup_s: float  # from the start of the process to the first output
    peak_mib: float
    device: str  # in words: "cpu (2 threads)"
    provider: str = ""  # that ran, of a runtime with several: "CPUExecutionProvider"
    error: str | None = None
    failed: dict[int, str] = field(default_factory=dict)
    spinning: bool = False


@dataclass(frozen=True)
class Turn:
    """The calls of one turn: wall and CPU time of each in ms, and what stood in their way.

    ``waited`` is the time that the threads waited for a core as a share of the turn's, None where the
    system does not say; ``busy_cores`` are those that other programs used right before the round.
    """

    ms: list[float]
    cpu_ms: list[float]
    waited: float | None
    busy_cores: float
    elapsed_s: float  # as the parent sees it

    def disturbed(self, threads: int, cores: int, *, on_cpu: bool) -> bool:
        """Whether other programs had the cores that this turn needed."""
        if self.waited is not None and self.waited > MAX_WAIT:
            return True
        return on_cpu and cores_taken(self.busy_cores, threads, cores)


class Deadline:
    """The time that is left for all timing, starts of processes included."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._end = time.monotonic() + limit_s

    def left_s(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def share_s(self, parts: int) -> float:
        """Return an equal part of the time that is left."""
        return self.left_s() / max(1, parts)


def default_limit_s(specs: Sequence[RunSpec], batch_sizes: Sequence[int], seconds: float) -> float:
    """Return the limit of all timing where none is set.

    A minute for each file, ten where it is compiled first, and three times the timed calls.
    """
    starts = sum(COMPILE_S if spec.backend == "compile" else START_S for spec in specs)
    return starts + 3 * seconds * len(batch_sizes) * len(specs)


@dataclass
class WorkerSlot:
    """A worker, the file it runs, and its measurements so far."""

    spec: RunSpec
    worker: Worker | None = None
    turns: dict[int, list[Turn]] = field(default_factory=dict)  # by batch size
    failed: dict[int, str] = field(default_factory=dict)
    startup_s: float = float("nan")
    peak_mib: float = float("nan")
    device: str = ""
    provider: str = ""
    error: str | None = None
    spinning: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether the file runs on the CPU."""
        return self.spec.device == "cpu"

    def request(self, timeout_s: float, op: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the reply. Raises: DlcliError, WorkerLost."""
        if self.worker is None or self.error is not None:
            raise WorkerLost(self.error or "it was never started")
        return self.worker.request(timeout_s, op=op, **arguments)

    def restart(self) -> None:
        """Forget the process and its turns; what failed is tried again."""
        if self.worker is not None:
            self.worker.close()
        self.worker, self.error, self.spinning = None, None, False
        self.turns, self.failed = {}, {}

    def timing(self, batch_sizes: Sequence[int], *, clock: str = "wall", doubt: str = "") -> Timing:
        """Return the measurements so far; ``doubt`` concerns all of them."""
        sizes = [s for s in batch_sizes if s in self.turns and s not in self.failed]
        speeds = {
            s: speed_of(
                s,
                [turn.cpu_ms if clock == "cpu" else turn.ms for turn in self.turns[s]],
                clock=clock,
                doubt=doubt,
            )
            for s in ([] if self.error else sizes)
        }
        return Timing(
            spec=self.spec,
            speeds=doubt_inversions(speeds),
            startup_s=self.startup_s,
            peak_mib=self.peak_mib,
            device=self.device,
            provider=self.provider,
            error=self.error,
            failed=dict(self.failed),
            spinning=self.spinning,
        )
