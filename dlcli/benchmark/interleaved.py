"""Interleaved timing: several model files, each in a worker process of its own, timed round by round.

What is timed is the model's call on inputs that are ready on its device (`Artifact.prepare_call`):
decoding, resizing and normalising are left out, alike for every format. A file with embedded
preprocessing is timed with it. Each worker loads one file; one worker at a time is timed, round after
round, so that a slow minute of the machine affects all of them alike, and ratios are of neighbouring
turns.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dlcli.benchmark.process import Worker, WorkerLost
from dlcli.benchmark.statistics import Speed, speed_of
from dlcli.data.base import Inputs
from dlcli.errors import DlcliError
from dlcli.events import Emit, EvalProgress, Warned, ignore
from dlcli.formats.base import Outputs
from dlcli.wording import plural

MIN_CALLS = 3  # of a batch size in each round
BUSY_CORES = 0.5  # used by other programs; fewer do not matter
TIMEOUT_S = 600.0  # for a reply of a worker, also for a start that compiles


@dataclass(frozen=True)
class RunSpec:
    """A file and how to run it; ``backend`` is for torch models (eager, channels-last, compile, ...)."""

    path: Path
    backend: str = "eager"
    device: str = "cpu"
    amp: str = "none"
    trust: bool = False


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
    error: str | None = None
    failed: dict[int, str] = field(default_factory=dict)
    spinning: bool = False


def time_models(
    specs: Sequence[RunSpec],
    inputs: Inputs,
    batch_sizes: Sequence[int],
    *,
    seconds: float = 1.0,
    rounds: int = 5,
    threads: int | None = None,
    timeout_s: float = TIMEOUT_S,
    emit: Emit = ignore,
) -> list[Timing]:
    """Time every file on ``inputs``, a batch of the largest size, in interleaved rounds.

    ``seconds`` are of timed calls for each file and batch size, over all rounds. A file that cannot be
    opened, dies or does not reply within ``timeout_s`` has an ``error``; the others are timed all the
    same.
    """
    jobs = [(spec, inputs) for spec in specs]
    with InterleavedTimer(jobs, batch_sizes, threads=threads, timeout_s=timeout_s, emit=emit) as timer:
        timer.run(seconds=seconds, rounds=rounds)
        return timer.timings()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_cores(interval_s: float = 0.2) -> float:
    """Return how many of the usable cores are busy while this process waits."""
    import psutil

    shares = psutil.cpu_percent(interval_s, percpu=True)
    if hasattr(os, "sched_getaffinity"):
        shares = [shares[core] for core in os.sched_getaffinity(0) if core < len(shares)]
    return float(sum(shares)) / 100


@dataclass
class WorkerSlot:
    """A worker, the file it runs, and its measurements so far."""

    spec: RunSpec
    worker: Worker | None = None
    rounds: dict[int, list[list[float]]] = field(default_factory=dict)  # ms, by batch size
    failed: dict[int, str] = field(default_factory=dict)
    startup_s: float = float("nan")
    peak_mib: float = float("nan")
    device: str = ""
    error: str | None = None
    spinning: bool = False

    def request(self, timeout_s: float, op: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the reply. Raises: DlcliError, WorkerLost."""
        if self.worker is None or self.error is not None:
            raise WorkerLost(self.error or "it was never started")
        return self.worker.request(timeout_s, op=op, **arguments)

    def timing(self, batch_sizes: Sequence[int]) -> Timing:
        """Return the measurements so far."""
        measured = [] if self.error else [s for s in batch_sizes if s in self.rounds]
        return Timing(
            spec=self.spec,
            speeds={s: speed_of(s, self.rounds[s]) for s in measured if s not in self.failed},
            startup_s=self.startup_s,
            peak_mib=self.peak_mib,
            device=self.device,
            error=self.error,
            failed=dict(self.failed),
            spinning=self.spinning,
        )


class InterleavedTimer:
    """A worker process for each file, for the length of a ``with`` block.

    ``busy_cores`` are those that other programs used before each round.
    """

    def __init__(
        self,
        jobs: Sequence[tuple[RunSpec, Inputs]],
        batch_sizes: Sequence[int],
        *,
        threads: int | None = None,
        timeout_s: float = TIMEOUT_S,
        emit: Emit = ignore,
    ) -> None:
        self.batch_sizes = list(batch_sizes)
        self.threads = threads or usable_cores()
        self.busy_cores: list[float] = []
        self._timeout_s = timeout_s
        self._emit = emit
        self._jobs = jobs
        self._slots = [WorkerSlot(spec) for spec, _ in jobs]
        self._folder = tempfile.TemporaryDirectory(prefix="dlcli-bench-")

    def __enter__(self) -> Self:
        """Start the workers one after another, so that no start slows another."""
        try:
            files: dict[int, Path] = {}
            for number, (slot, (_, inputs)) in enumerate(zip(self._slots, self._jobs, strict=True)):
                self._emit(EvalProgress("starting", number, len(self._slots), unit="models"))
                if id(inputs) not in files:
                    files[id(inputs)] = self._save(f"inputs-{len(files)}.npz", inputs)
                log = Path(self._folder.name) / f"{number}.log"
                self._start(slot, files[id(inputs)], log)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.close()
        self._folder.cleanup()

    def run(self, *, seconds: float, rounds: int) -> None:
        """Warm up, then time every batch size of every file in ``rounds`` interleaved rounds."""
        for slot in self._alive():
            for size in self.batch_sizes:
                self._request_at(slot, size, "warmup", batch_size=size)
        done, total = 0, rounds * len(self.batch_sizes)
        for number in range(rounds):
            self.busy_cores.append(busy_cores())
            for size in self.batch_sizes:
                # Every other round is in reverse order, so that no file always follows the same one.
                for slot in self._alive()[:: 1 if number % 2 == 0 else -1]:
                    self._time(slot, size, seconds / rounds)
                done += 1
                self._emit(EvalProgress("timing", done, total, unit="rounds"))
        self._warn_if_busy()
        for slot in self._alive():
            self._measure_memory(slot)
            if slot.spinning:
                self._emit(
                    Warned(
                        f"the threads of {slot.spec.path.name} keep spinning between its turns, "
                        "which slows the others; OMP_WAIT_POLICY=active would be a reason"
                    )
                )

    def timings(self) -> list[Timing]:
        """Return the measurements so far, in the order of the jobs."""
        return [slot.timing(self.batch_sizes) for slot in self._slots]

    def predict(self, number: int, inputs: Inputs) -> Outputs:
        """Return the outputs of file ``number``, run exactly as it was timed. Raises: DlcliError."""
        slot = self._slots[number]
        source = self._save("predict.npz", inputs)
        target = Path(self._folder.name) / "outputs.npy"
        try:
            slot.request(self._timeout_s, "predict", inputs=str(source), output=str(target))
        except WorkerLost as exc:
            slot.error = str(exc)
            raise DlcliError(str(exc)) from exc
        outputs: Outputs = np.load(target, allow_pickle=False)
        return outputs

    def macs(self, number: int) -> int:
        """Return the multiply-adds of file ``number`` for one sample. Raises: DlcliError."""
        try:
            return int(self._slots[number].request(self._timeout_s, "macs")["macs"])
        except WorkerLost as exc:
            raise DlcliError(str(exc)) from exc

    def _start(self, slot: WorkerSlot, inputs: Path, log: Path) -> None:
        spec = slot.spec
        job = {
            "path": str(spec.path),
            "backend": spec.backend,
            "device": spec.device,
            "amp": spec.amp,
            "trust": spec.trust,
            "threads": self.threads,
            "inputs": str(inputs),
            "first": min(self.batch_sizes),
        }
        slot.worker = Worker(job, log)
        try:
            reply = slot.worker.read(self._timeout_s)
            slot.startup_s, slot.device = slot.worker.age_s, reply["device"]
        except DlcliError as exc:
            slot.error = exc.message + (f" ({exc.hint})" if exc.hint else "")
        except WorkerLost as exc:
            slot.error = str(exc)

    def _alive(self) -> list[WorkerSlot]:
        return [slot for slot in self._slots if slot.error is None]

    def _time(self, slot: WorkerSlot, size: int, seconds: float) -> None:
        """Give a worker its turn."""
        if slot.error is not None or size in slot.failed:
            return
        reply = self._request_at(
            slot, size, "time", batch_size=size, seconds=seconds, min_calls=MIN_CALLS
        )
        if reply is not None:
            slot.rounds.setdefault(size, []).append(reply["ms"])
            slot.spinning = slot.spinning or reply["spinning"]

    def _request_at(
        self, slot: WorkerSlot, size: int, op: str, **arguments: Any
    ) -> dict[str, Any] | None:
        """Return the reply, or None: while the worker lives, an error concerns this batch size alone."""
        try:
            return slot.request(self._timeout_s, op, **arguments)
        except DlcliError as exc:
            slot.failed[size] = exc.message
        except WorkerLost as exc:
            slot.error = f"{exc}, at batch {size}"
        return None

    def _measure_memory(self, slot: WorkerSlot) -> None:
        try:
            slot.peak_mib = float(slot.request(self._timeout_s, "memory")["peak_mib"])
        except DlcliError as exc:
            slot.error = exc.message
        except WorkerLost as exc:
            slot.error = str(exc)

    def _warn_if_busy(self) -> None:
        """Warn when threads have waited for cores that other programs used."""
        used, cores = float(np.median(self.busy_cores)), usable_cores()
        on_cpu = any(slot.spec.device == "cpu" for slot in self._alive())
        if on_cpu and used > BUSY_CORES and used + self.threads > cores + BUSY_CORES:
            advice = "; --threads 1 is steadier" if self.threads > 1 else ""
            self._emit(
                Warned(
                    f"other programs use {used:.1f} of the {cores} cores: calls take longer than on an "
                    f"idle machine, and vary more with {plural(self.threads, 'thread')} each{advice}"
                )
            )

    def _save(self, name: str, inputs: Inputs) -> Path:
        path = Path(self._folder.name) / name
        np.savez(path, *inputs)
        return path
