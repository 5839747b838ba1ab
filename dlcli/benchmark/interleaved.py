"""Latency of several model files, each in a process of its own, asked in turns.

What is timed is the model's call on tensors that lie ready (`Artifact.prepared`): decoding, resizing and
normalising are left out, the same for every format. A file that has its preprocessing inside is timed
with it. Each worker loads one file; the parent asks one worker at a time, round after round, so a slow
minute of the machine meets all of them alike and ratios are of turns that lie side by side.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dlcli.benchmark.process import Lost, Worker
from dlcli.benchmark.statistics import Speed, speed_of
from dlcli.data.base import Inputs
from dlcli.errors import DlcliError
from dlcli.events import Emit, EvalProgress, Warned, ignore
from dlcli.formats.base import Outputs

__all__ = ["Candidate", "Speed", "Timing", "Turns", "time_models", "usable_cores"]

LEAST_CALLS = 3  # of a batch size in each round
BUSY = 0.5  # cores that others use; fewer are no matter
TIMEOUT_S = 600.0  # for one answer of a worker, a start that compiles among them


@dataclass(frozen=True)
class Candidate:
    """A file and how to run it; ``backend`` is for torch models (eager, channels-last, compile, ...)."""

    path: Path
    backend: str = "eager"
    device: str = "cpu"
    amp: str = "none"
    trust: bool = False


@dataclass(frozen=True)
class Timing:
    """One candidate's figures; ``error`` is why there are none.

    ``failed`` are the batch sizes that it could not answer, with the reason. ``peak_mib`` is the highest
    resident memory of its process up to the end of timing, libraries included; on a GPU what it
    allocated there. ``restless`` is whether its threads kept spinning between its turns.
    """

    candidate: Candidate
    speeds: dict[int, Speed]
    startup_s: float  # from the process's start to the first answer
    peak_mib: float
    device: str  # in words: "cpu (2 threads)"
    error: str | None = None
    failed: dict[int, str] = field(default_factory=dict)
    restless: bool = False


def time_models(
    candidates: Sequence[Candidate],
    inputs: Inputs,
    batch_sizes: Sequence[int],
    *,
    seconds: float = 1.0,
    rounds: int = 5,
    threads: int | None = None,
    timeout_s: float = TIMEOUT_S,
    emit: Emit = ignore,
) -> list[Timing]:
    """Time every candidate on ``inputs``, as many as the largest batch, in interleaved rounds.

    ``seconds`` are of timed calls for each candidate and batch size, over all rounds. One that cannot be
    opened, dies or does not answer within ``timeout_s`` has an ``error``; the others go on.
    """
    jobs = [(candidate, inputs) for candidate in candidates]
    with Turns(jobs, batch_sizes, threads=threads, timeout_s=timeout_s, emit=emit) as turns:
        turns.run(seconds=seconds, rounds=rounds)
        return turns.timings()


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_cores(interval_s: float = 0.2) -> float:
    """How many of the usable cores are at work just now, while this process waits."""
    import psutil

    shares = psutil.cpu_percent(interval_s, percpu=True)
    if hasattr(os, "sched_getaffinity"):
        shares = [shares[core] for core in os.sched_getaffinity(0) if core < len(shares)]
    return float(sum(shares)) / 100


@dataclass
class _Seat:
    """A candidate, its worker, and what came of it so far."""

    candidate: Candidate
    worker: Worker | None = None
    rounds: dict[int, list[list[float]]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    startup_s: float = float("nan")
    peak_mib: float = float("nan")
    device: str = ""
    error: str | None = None
    restless: bool = False


class Turns:
    """A worker for each candidate, for the length of a ``with`` block."""

    def __init__(
        self,
        jobs: Sequence[tuple[Candidate, Inputs]],
        batch_sizes: Sequence[int],
        *,
        threads: int | None = None,
        timeout_s: float = TIMEOUT_S,
        emit: Emit = ignore,
    ) -> None:
        self.sizes = list(batch_sizes)
        self.threads = threads or usable_cores()
        self._timeout_s = timeout_s
        self._emit = emit
        self._jobs = jobs
        self._seats = [_Seat(candidate) for candidate, _ in jobs]
        self.busy: list[float] = []  # cores that others use, before each round
        self._folder = tempfile.TemporaryDirectory(prefix="dlcli-bench-")

    def __enter__(self) -> Self:
        """Start the workers, one after another, so that each start has the machine for itself."""
        try:
            files: dict[int, Path] = {}
            for number, (seat, (_, inputs)) in enumerate(zip(self._seats, self._jobs, strict=True)):
                self._emit(EvalProgress("starting", number, len(self._seats), unit="models"))
                if id(inputs) not in files:
                    files[id(inputs)] = self._save(f"inputs-{len(files)}.npz", inputs)
                self._start(seat, files[id(inputs)])
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for seat in self._seats:
            if seat.worker is not None:
                seat.worker.close()
        self._folder.cleanup()

    def run(self, *, seconds: float, rounds: int) -> None:
        """Warm up, then time every batch size of every candidate ``rounds`` times, in turns."""
        for seat in self._alive():
            for size in self.sizes:
                self._of_size(seat, size, "warm", batch_size=size)
        done, total = 0, rounds * len(self.sizes)
        for number in range(rounds):
            self.busy.append(busy_cores())
            for size in self.sizes:
                # Every other round backwards: who follows whom shall not decide.
                seats = self._alive()[:: 1 if number % 2 == 0 else -1]
                for seat in seats:
                    self._turn(seat, size, seconds / rounds)
                done += 1
                self._emit(EvalProgress("timing", done, total, unit="turns"))
        self._warn_if_busy()
        for seat in self._alive():
            self._guarded(seat, lambda seat=seat: self._memory(seat))  # type: ignore[misc]
            if seat.restless:
                self._emit(
                    Warned(
                        f"the threads of {seat.candidate.path.name} keep spinning between its turns, "
                        "which slows the others; OMP_WAIT_POLICY=active would be a reason"
                    )
                )

    def _warn_if_busy(self) -> None:
        """Threads that wait for each other while others hold their cores: no figure of a model."""
        used, cores = float(np.median(self.busy)), usable_cores()
        on_cpu = any(seat.candidate.device == "cpu" for seat in self._alive())
        if on_cpu and used > BUSY and used + self.threads > cores + BUSY:
            fewer = "; --threads 1 is steadier" if self.threads > 1 else ""
            self._emit(
                Warned(
                    f"other programs use {used:.1f} of the {cores} cores: calls take longer than on an "
                    f"idle machine, and scatter with {self.threads} thread(s) each{fewer}"
                )
            )

    def timings(self) -> list[Timing]:
        """The figures so far, in the order of the candidates."""
        return [
            Timing(
                candidate=seat.candidate,
                speeds={
                    size: speed_of(size, seat.rounds[size])
                    for size in self.sizes
                    if size in seat.rounds and size not in seat.failed and seat.error is None
                },
                startup_s=seat.startup_s,
                peak_mib=seat.peak_mib,
                device=seat.device,
                error=seat.error,
                failed=dict(seat.failed),
                restless=seat.restless,
            )
            for seat in self._seats
        ]

    def answers(self, number: int, inputs: Inputs) -> Outputs:
        """What candidate ``number`` answers, exactly as it was timed. Raises: DlcliError."""
        seat = self._seats[number]
        source, target = self._save("asked.npz", inputs), Path(self._folder.name) / "answers.npy"
        try:
            self._ask(seat, "answer", inputs=str(source), output=str(target))
        except Lost as exc:
            seat.error = str(exc)
            raise DlcliError(str(exc)) from exc
        found: Outputs = np.load(target, allow_pickle=False)
        return found

    def macs(self, number: int) -> int:
        """Multiply-adds of candidate ``number`` for one sample. Raises: DlcliError."""
        try:
            return int(self._ask(self._seats[number], "macs")["macs"])
        except Lost as exc:
            raise DlcliError(str(exc)) from exc

    def _start(self, seat: _Seat, inputs: Path) -> None:
        found = seat.candidate
        job = {
            "path": str(found.path),
            "backend": found.backend,
            "device": found.device,
            "amp": found.amp,
            "trust": found.trust,
            "threads": self.threads,
            "inputs": str(inputs),
            "first": min(self.sizes),
        }

        def begin() -> None:
            log = Path(self._folder.name) / f"{len(list(Path(self._folder.name).glob('*.log')))}.log"
            seat.worker = Worker(job, log)
            ready = seat.worker.read(self._timeout_s)
            seat.startup_s, seat.device = seat.worker.age_s, ready["device"]

        self._guarded(seat, begin)

    def _alive(self) -> list[_Seat]:
        return [seat for seat in self._seats if seat.error is None]

    def _turn(self, seat: _Seat, size: int, seconds: float) -> None:
        if seat.error is not None or size in seat.failed:
            return
        reply = self._of_size(seat, size, "time", batch_size=size, seconds=seconds, least=LEAST_CALLS)
        if reply is not None:
            seat.rounds.setdefault(size, []).append(reply["ms"])
            seat.restless = seat.restless or reply["restless"]

    def _of_size(self, seat: _Seat, size: int, op: str, **request: Any) -> dict[str, Any] | None:
        """Ask; an error is of this batch size alone while the worker lives."""
        try:
            return self._ask(seat, op, **request)
        except DlcliError as exc:
            seat.failed[size] = exc.message
        except Lost as exc:
            seat.error = f"{exc}, at batch {size}"
        return None

    def _ask(self, seat: _Seat, op: str, **request: Any) -> dict[str, Any]:
        if seat.worker is None or seat.error is not None:
            raise Lost(seat.error or "it was never started")
        return seat.worker.ask(self._timeout_s, op=op, **request)

    def _guarded(self, seat: _Seat, act: Callable[[], None]) -> None:
        try:
            act()
        except DlcliError as exc:
            seat.error = exc.message + (f" ({exc.hint})" if exc.hint else "")
        except Lost as exc:
            seat.error = str(exc)

    def _memory(self, seat: _Seat) -> None:
        seat.peak_mib = float(self._ask(seat, "memory")["peak_mib"])

    def _save(self, name: str, inputs: Inputs) -> Path:
        path = Path(self._folder.name) / name
        np.savez(path, *inputs)
        return path
