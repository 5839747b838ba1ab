"""Interleaved timing: several model files, each in a worker process of its own, timed round by round.

What is timed is the model's call on inputs that are ready on its device (`Artifact.prepare_call`):
decoding, resizing and normalising are left out, alike for every format. A file with embedded
preprocessing is timed with it. Each worker loads one file; one worker at a time is timed, round after
round, so that a slow minute of the machine affects all of them alike, and ratios are of neighbouring
turns.

Rounds on a busy machine may agree and be wrong: a call on two threads waits for the slower one, whose
core another program has. So where cores are taken, all files run on one thread and are timed by their
CPU time; where that is not possible (threads were requested, or a GPU), the figures carry a doubt.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dlcli.benchmark.process import Worker, WorkerLost
from dlcli.benchmark.slot import Deadline, RunSpec, Timing, Turn, WorkerSlot, default_limit_s
from dlcli.data.base import Inputs
from dlcli.errors import DlcliError
from dlcli.events import Emit, EvalProgress, Warned, ignore
from dlcli.formats.base import Outputs
from dlcli.machine.load import busy_cores, cores_taken
from dlcli.machine.threads import requested_threads, usable_cores
from dlcli.wording import plural

MIN_CALLS = 3  # of a batch size in each round
TIMEOUT_S = 600.0  # for a reply of a worker, also for a start that compiles
DISTURBED = 0.25  # of the turns: from here on the machine is busy
_WARMUP_SHARE = 20  # a warm-up may use this part of the time that is left


class InterleavedTimer:
    """A worker process for each file, for the length of a ``with`` block.

    ``busy_cores`` are those that other programs used before each round; ``clock`` is "wall", or "cpu"
    where cores were taken and all files ran on one thread; ``doubt`` is why no figure says much.
    """

    def __init__(
        self,
        jobs: Sequence[tuple[RunSpec, Inputs]],
        batch_sizes: Sequence[int],
        *,
        seconds: float,
        rounds: int,
        threads: int | None = None,
        limit_s: float | None = None,
        timeout_s: float = TIMEOUT_S,
        emit: Emit = ignore,
    ) -> None:
        self.batch_sizes = list(batch_sizes)
        requested = threads or requested_threads()
        self.threads = requested or usable_cores()
        self.busy_cores: list[float] = []
        self.clock, self.doubt = "wall", ""
        self.cut = False  # by the time limit
        self._seconds, self._rounds = seconds, rounds
        self._slots = [WorkerSlot(spec) for spec, _ in jobs]
        self._may_reduce = requested is None and all(slot.on_cpu for slot in self._slots)
        specs = [spec for spec, _ in jobs]
        self._limit_s = limit_s or default_limit_s(specs, self.batch_sizes, seconds)
        self._deadline = Deadline(self._limit_s)
        self._timeout_s = timeout_s
        self._emit = emit
        self._jobs = jobs
        self._folder = tempfile.TemporaryDirectory(prefix="dlcli-bench-")

    def __enter__(self) -> Self:
        """Start the workers, on one thread each where the cores are taken already."""
        try:
            self._deadline = Deadline(self._limit_s)
            if self._may_reduce and cores_taken(busy_cores(), self.threads, usable_cores()):
                self.threads = 1
            self._start_all()
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

    def run(self) -> None:
        """Warm up, then time every batch size of every file in interleaved rounds.

        Where other programs turn out to have the cores, everything is repeated on one thread.
        """
        self._time_rounds()
        if self._disturbed() and self.threads > 1 and self._may_reduce:
            self.threads = 1
            for slot in self._slots:
                slot.restart()
            self._start_all()
            self._time_rounds()
        self._judge()
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
        return [
            slot.timing(self.batch_sizes, clock=self.clock, doubt=self.doubt) for slot in self._slots
        ]

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

    def _start_all(self) -> None:
        """Start the workers one after another, so that no start slows another."""
        files: dict[int, Path] = {}
        for number, (slot, (_, inputs)) in enumerate(zip(self._slots, self._jobs, strict=True)):
            self._emit(EvalProgress("starting", number, len(self._slots), unit="models"))
            if id(inputs) not in files:
                files[id(inputs)] = self._save(f"inputs-{len(files)}.npz", inputs)
            self._start(slot, files[id(inputs)], Path(self._folder.name) / f"{number}.log")

    def _start(self, slot: WorkerSlot, inputs: Path, log: Path) -> None:
        spec = slot.spec
        if not self._deadline.left_s():
            slot.error = self._over("it was not started")
            return
        job = {
            "path": str(spec.path),
            "backend": spec.backend,
            "device": spec.device,
            "amp": spec.amp,
            "trust": spec.trust,
            "raw": spec.raw,
            "threads": self.threads,
            "inputs": str(inputs),
            "first": min(self.batch_sizes),
        }
        slot.worker = Worker(job, log)
        try:
            reply = slot.worker.read(self._patience_s())
            slot.startup_s, slot.device = slot.worker.age_s, reply["device"]
            slot.provider = reply["provider"]
        except DlcliError as exc:
            slot.error = exc.message + (f" ({exc.hint})" if exc.hint else "")
        except WorkerLost as exc:
            slot.error = self._over(str(exc))

    def _alive(self) -> list[WorkerSlot]:
        return [slot for slot in self._slots if slot.error is None]

    def _time_rounds(self) -> None:
        for slot in self._alive():
            for size in self.batch_sizes:
                limit_s = self._deadline.share_s(_WARMUP_SHARE)
                self._request_at(slot, size, "warmup", batch_size=size, limit_s=limit_s)
        done, total = 0, self._rounds * len(self.batch_sizes)
        self.busy_cores = []
        for number in range(self._rounds):
            self.busy_cores.append(busy_cores())
            for size in self.batch_sizes:
                # Every other round is in reverse order, so that no file always follows the same one.
                for slot in self._alive()[:: 1 if number % 2 == 0 else -1]:
                    self._time(slot, size, total - done)
                done += 1
                self._emit(EvalProgress("timing", done, total, unit="rounds"))
            if self.cut or (number and self.threads > 1 and self._may_reduce and self._disturbed()):
                return  # timed again on one thread

    def _time(self, slot: WorkerSlot, size: int, turns_left: int) -> None:
        """Give a worker its turn, unless it would not end in time."""
        if slot.error is not None or size in slot.failed:
            return
        turns = slot.turns.get(size, [])
        if turns and turns[-1].elapsed_s > self._deadline.left_s():
            self.cut = True
            return
        t0 = time.monotonic()
        reply = self._request_at(
            slot,
            size,
            "time",
            batch_size=size,
            seconds=self._seconds / self._rounds,
            min_calls=MIN_CALLS,
            limit_s=self._deadline.share_s(turns_left * len(self._slots)),
        )
        if reply is not None:
            turn = Turn(
                ms=reply["ms"],
                cpu_ms=reply["cpu_ms"],
                waited=reply["waited"],
                busy_cores=self.busy_cores[-1],
                elapsed_s=time.monotonic() - t0,
            )
            slot.turns.setdefault(size, []).append(turn)
            slot.spinning = slot.spinning or reply["spinning"]

    def _request_at(
        self, slot: WorkerSlot, size: int, op: str, **arguments: Any
    ) -> dict[str, Any] | None:
        """Return the reply, or None: while the worker lives, an error concerns this batch size alone."""
        try:
            return slot.request(self._patience_s(), op, **arguments)
        except DlcliError as exc:
            slot.failed[size] = exc.message
        except WorkerLost as exc:
            slot.error = self._over(f"{exc}, at batch {size}")
        return None

    def _patience_s(self) -> float:
        """Return how long to wait for a reply."""
        return min(self._timeout_s, self._deadline.left_s())

    def _over(self, reason: str) -> str:
        """Return the reason, with the time limit where that is over."""
        if self._deadline.left_s():
            return reason
        self.cut = True
        return f"{reason}: the {self._limit_s:.0f} s for timing were over (--time-limit)"

    def _measure_memory(self, slot: WorkerSlot) -> None:
        try:
            slot.peak_mib = float(slot.request(self._timeout_s, "memory")["peak_mib"])
        except DlcliError as exc:
            slot.error = exc.message
        except WorkerLost as exc:
            slot.error = str(exc)

    def _disturbed(self) -> bool:
        """Whether other programs had the cores in more than a few of the turns."""
        cores = usable_cores()
        turns = [
            turn.disturbed(self.threads, cores, on_cpu=slot.on_cpu)
            for slot in self._slots
            for group in slot.turns.values()
            for turn in group
        ]
        return bool(turns) and sum(turns) > DISTURBED * len(turns)

    def _judge(self) -> None:
        """Choose the clock, or state the doubt, and say so."""
        if self.cut:
            self._emit(
                Warned(
                    f"timing was cut short after {self._limit_s:.0f} s; --time-limit SECONDS gives more"
                )
            )
        if not self._disturbed():
            return
        used = max(0.0, float(np.median(self.busy_cores)))
        self.doubt = f"other programs used {used:.1f} of the {usable_cores()} cores"
        if self.threads == 1 and all(slot.on_cpu for slot in self._slots):
            self.clock, self.doubt = "cpu", ""
            reason = "the CPU time of one thread is given, not the time on the clock"
        elif all(slot.on_cpu for slot in self._slots):
            threads = plural(self.threads, "thread")
            reason = f"with {threads} each, no speed is stated; --threads 1 is steadier"
        else:
            reason = "no speed is stated; try again on an idle machine"
        self._emit(Warned(f"other programs used {used:.1f} of the {usable_cores()} cores: {reason}"))

    def _save(self, name: str, inputs: Inputs) -> Path:
        path = Path(self._folder.name) / name
        np.savez(path, *inputs)
        return path


def time_models(
    specs: Sequence[RunSpec],
    inputs: Inputs,
    batch_sizes: Sequence[int],
    *,
    seconds: float = 1.0,
    rounds: int = 5,
    threads: int | None = None,
    limit_s: float | None = None,
    timeout_s: float = TIMEOUT_S,
    emit: Emit = ignore,
) -> InterleavedTimer:
    """Time every file on ``inputs``, a batch of the largest size; return the timer, its workers ended.

    ``seconds`` are of timed calls for each file and batch size, over all rounds; ``limit_s`` is the most
    that everything takes. A file that cannot be opened, dies or does not reply within ``timeout_s`` has
    an ``error``; the others are timed all the same.
    """
    timer = InterleavedTimer(
        [(spec, inputs) for spec in specs],
        batch_sizes,
        seconds=seconds,
        rounds=rounds,
        threads=threads,
        limit_s=limit_s,
        timeout_s=timeout_s,
        emit=emit,
    )
    with timer:
        timer.run()
    return timer
