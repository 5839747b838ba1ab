"""Where the time of a run goes: every moment of the loop belongs to one phase."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from dlcli.machine.load import queue_wait_s
from dlcli.training.loop.state import Progress

T = TypeVar("T")
# The key of each phase, as in run.json: "data" is waiting for the next batch, "other" all that is no
# other phase: events, snapshots, and in a group the wait for slower processes between two steps.
PHASES = ("data", "step", "evaluation", "saving", "other")


class PhaseClock:
    """Seconds of each phase of a run in this process, those before a resume included.

    It reads `time.perf_counter` where a phase begins and ends, and never waits for a device. Kernels
    of a GPU run on after their launch, so there "step" is the launches and the waits for the device
    when losses are logged; a wait for data while the device was still computing is part of "step".
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phase = "other"
        self._since = self._started = time.perf_counter()
        self._waited_s = queue_wait_s(main_only=True)

    def start(self, seconds: Mapping[str, float], elapsed_s: float) -> None:
        """Go on from the phases of an earlier part of the run; ``elapsed_s`` beyond them is "other"."""
        self._seconds = {phase: seconds.get(phase, 0.0) for phase in PHASES}
        self._seconds["other"] += max(0.0, elapsed_s - sum(self._seconds.values()))
        self._phase, self._since = "other", time.perf_counter()
        self._started, self._waited_s = self._since, queue_wait_s(main_only=True)

    def core_wait(self) -> float:
        """Return the share of the time since `start` in which the main thread had no core to run on.

        0 where the system does not count it.
        """
        waited_s = queue_wait_s(main_only=True)
        if waited_s is None or self._waited_s is None:
            return 0.0
        return (waited_s - self._waited_s) / max(time.perf_counter() - self._started, 1e-9)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase so far."""
        self._enter(self._phase)
        return dict(self._seconds)

    def elapsed(self) -> float:
        """Return the seconds of all phases."""
        return sum(self.seconds().values())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Context whose time belongs to a phase, except for that of phases within it."""
        before = self._phase
        self._enter(name)
        try:
            yield
        finally:
            self._enter(before)

    def waits(self, batches: Iterable[T], work: DeviceWork) -> Iterator[T]:
        """The batches; waiting for each is "data", unless the device was at ``work`` all the while."""
        iterator = iter(batches)
        end = object()
        while True:
            self._enter("data")
            batch = next(iterator, end)
            if work.unfinished():
                self._phase = "step"
            self._enter("other")
            if batch is end:
                return
            yield batch  # type: ignore[misc]  # not the end

    def _enter(self, phase: str) -> None:
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now


class DeviceWork:
    """The work of the steps so far on a CUDA device; other devices are never seen at work."""

    def __init__(self, device: torch.device) -> None:
        self._event: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def mark(self) -> None:
        """Put a mark after all that was launched so far."""
        if self._event is not None:
            self._event.record()

    def unfinished(self) -> bool:
        """Whether the device has not reached the mark yet; does not wait for it."""
        return self._event is not None and not self._event.query()


def samples_per_s(progress: Progress) -> float:
    """Return the speed of training: of the steps and the waits for their data; NaN before the first."""
    seconds = progress.phase_s.get("data", 0.0) + progress.phase_s.get("step", 0.0)
    return progress.trained / seconds if seconds else math.nan


def time_record(progress: Progress) -> dict[str, Any]:
    """Return the seconds and shares of the phases, and the speed, for run.json and ``--json``."""
    total = sum(progress.phase_s.values()) or 1.0
    speed = samples_per_s(progress)
    return {
        "seconds": {phase: round(seconds, 3) for phase, seconds in progress.phase_s.items()},
        "shares": {phase: round(seconds / total, 4) for phase, seconds in progress.phase_s.items()},
        "samples_per_s": round(speed, 3) if math.isfinite(speed) else None,
    }
