"""A trace of some training steps by `torch.profiler`, and the operators that took their time."""

from __future__ import annotations

import os
from typing import Any

from torch.profiler import ProfilerActivity, profile

from dlcli.events import OperatorTime, Profiled, Warned
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.state import Progress

WARM_UP_STEPS = 3  # of a process, which allocate memory and choose kernels
_TOP = 10


class StepProfiler:
    """Profiles ``fit.profile`` consecutive steps of this process, once, after its first few steps.

    The steps lie within one epoch, where one has as many, so that no evaluation is among them. Only the
    main process profiles. Nothing that a step computes depends on it.
    """

    def __init__(self, job: FitJob, progress: Progress) -> None:
        self._job, self._progress = job, progress
        self._steps = (job.config.profile or 0) if job.world.main else 0
        self._warm_at = progress.step + WARM_UP_STEPS
        self._first_step = 0
        self._profile: profile | None = None

    def before_step(self) -> None:
        """Begin or end the trace where the next step is due for it."""
        step = self._progress.step
        if self._profile is not None and step >= self._first_step + self._steps:
            self.end()
        elif self._profile is None and self._steps and step >= self._warm_at and self._has_room():
            # Kineto reports to stderr, also that a machine has no GPU.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            cuda = [ProfilerActivity.CUDA] if self._job.device.type == "cuda" else []
            self._first_step, self._profile = step, profile(activities=[ProfilerActivity.CPU, *cuda])
            self._profile.start()

    def end(self, *, of_run: bool = False) -> None:
        """End a trace that was begun, write it, and emit its dearest operators. Raises: DlcliError."""
        steps = self._progress.step - self._first_step
        if self._profile is not None:
            trace, self._profile, self._steps = self._profile, None, 0
            trace.stop()
            path = self._job.files.save_trace(self._first_step + 1, trace.export_chrome_trace)
            self._job.emit(_profiled(trace, path, self._first_step + 1, steps))
        elif of_run and self._steps:
            self._steps = 0
            self._job.emit(
                Warned(
                    f"--profile: nothing was profiled, since the run ended within {WARM_UP_STEPS} steps"
                )
            )

    def _has_room(self) -> bool:
        """Whether the epoch still has all the steps, or no later one has more of them."""
        job, progress = self._job, self._progress
        left = len(job.batches) - progress.batch
        last = job.total_steps - progress.step <= left
        return left >= self._steps or last or progress.batch == 0


def _profiled(trace: profile, path: str, first_step: int, steps: int) -> Profiled:
    """Return the event of a trace: its operators by the time in themselves, that on a GPU first."""
    events = trace.key_averages()
    device_us = sum(event.self_device_time_total for event in events)

    def self_us(event: Any) -> float:
        return float(event.self_device_time_total if device_us else event.self_cpu_time_total)

    total_us = sum(map(self_us, events)) or 1.0
    operators = sorted((e for e in events if not e.is_user_annotation), key=self_us, reverse=True)
    return Profiled(
        path=path,
        first_step=first_step,
        steps=steps,
        by="CUDA" if device_us else "CPU",
        operators=tuple(
            OperatorTime(
                name=event.key,
                calls=event.count,
                cpu_ms=event.self_cpu_time_total / 1e3,
                device_ms=event.self_device_time_total / 1e3 if device_us else None,
                share=self_us(event) / total_us,
            )
            for event in operators[:_TOP]
        ),
    )
