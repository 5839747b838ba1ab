"""The fastest precision, layout and number of threads, by trial.

Which is faster depends on the model and the CPU: with AMX, bf16 halves the step of a ResNet and doubles
that of a MobileNet, whose depthwise convolutions have no such kernels. A step of an MLP is hundreds of
loops of some microseconds, at the end of each of which threads wait for each other: one thread alone may
be as fast or faster, and on a busy machine twice as fast.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from dlcli.errors import DlcliError
from dlcli.machine.threads import requested_threads, usable_cores
from dlcli.task import ImageInput
from dlcli.training.autotune.trial import (
    first_device,
    steps_per_epoch,
    training_batches,
    trial_job,
    with_settings,
)
from dlcli.training.distributed.ranks import local_ranks
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.loader import Batch
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import optimizer_step
from dlcli.training.optim.make import set_lr
from dlcli.training.plan import Plan
from dlcli.transforms import FAKE_QUANT
from dlcli.wording import first_line, plural
from dlcli.zoo.forward import has_images, make_contiguous
from dlcli.zoo.precision import Precision, cpu_has_bf16_kernels, resolve_precision

# Outputs of bf16 have 8 significant bits: enough to rank classes, too few for numbers.
_TASKS = ("classification", "multilabel", "seq2seq", "embedding")
_SHORTEST_RUN_S = 20.0  # of training in float32: below it a trial costs more than it gains
_FEWEST_STEPS = 30
_SHARE_OF_RUN = 0.02  # that a trial may take, within these seconds
_LEAST_S, _MOST_S = 2.0, 60.0
_BLOCK_S = 0.1  # steps are timed in blocks of about this length
_ROUNDS = range(3, 16)
_LEAST_SPEEDUP = 1.1
_MOST_SLOWDOWN = 1.25  # of the best of a few steps, beyond which a way is timed no more
_HOPELESS = 10.0  # slowdown of a first step after which there is no second: it may take minutes
_LONG_STEP_S = 0.05  # in which operators are large enough for all threads


@dataclass(frozen=True)
class Way:
    """A way to compute a step: the dtype of autocast, the memory format of images and kernels, threads.

    ``threads`` None: as many as there are.
    """

    amp: str
    channels_last: bool
    threads: int | None = None

    def describe(self, images: bool) -> str:
        """Its name: "bf16, 1 thread", or of images "bf16 + channels-last"."""
        name = "float32" if self.amp == "none" else self.amp
        layout = "channels-last" if self.channels_last else "contiguous"
        threads = f", {plural(self.threads, 'thread')}" if self.threads else ""
        return (f"{name} + {layout}" if images else name) + threads


@dataclass(frozen=True)
class Timed:
    """How much faster a way is than float32 with channels-last and all threads.

    ``fastest``: of the fastest rounds. ``median``: in the median round.
    """

    way: Way
    fastest: float
    median: float

    @property
    def speedup(self) -> float:
        """The smaller of the two: where they disagree, the machine is busy."""
        return min(self.fastest, self.median)


def choose_fastest(plan: Plan) -> tuple[Plan, str]:
    """The plan with what ``fit.amp``, ``channels_last`` and ``threads`` leave open; the reason, or "".

    On CPUs the ways are timed in turn on the run's own batches, for at most 2 % of the estimated time of
    the run and a minute. Another way than float32 with channels-last and all threads must be 1.1 times
    as fast, both in its fastest round and in the median of the rounds; of several the fastest is taken.
    Nothing is tried in runs of less than 20 seconds or 30 steps; in those on cached features, whose
    steps are of the head alone; and in those with ``--deterministic``, since a choice by time may differ
    from run to run. Tasks whose answers are numbers are float32: bf16 has 8 significant bits. On other
    devices "auto" is what `resolve_precision` says.
    """
    fit = plan.config.fit
    device = first_device(plan.config)
    amp = resolve_precision(fit.amp, device).name
    known = Way(amp, fit.channels_last != "off")
    if device.type != "cpu":
        return _resolved(plan, known), ""
    if fit.deterministic and fit.amp == "auto":
        return _resolved(plan, known), "float32: --deterministic leaves no choice to a trial of speed"
    others = [] if fit.deterministic else _others(plan, known)
    if not others or fit.cache_features == "on":
        return _resolved(plan, known), ""
    timed, reason = _time(with_settings(plan, fit={"amp": amp, "channels_last": "on"}), known, others)
    best = max(timed, key=lambda one: one.speedup, default=None)
    way = known if best is None or best.speedup < _LEAST_SPEEDUP else best.way
    sentences = [_sentence(way, known, timed) if timed else "", reason]
    return _resolved(plan, way), "; ".join(filter(None, sentences))


def _resolved(plan: Plan, way: Way) -> Plan:
    """The plan with the settings of a way, itself where it has them.

    The layout stays as it is where there are no images.
    """
    fit: dict[str, object] = {"amp": way.amp}
    if isinstance(plan.task.input, ImageInput):
        fit["channels_last"] = "on" if way.channels_last else "off"
    if way.threads:
        fit["threads"] = way.threads
    resolved = with_settings(plan, fit=fit)
    return plan if resolved.config == plan.config else resolved


def _others(plan: Plan, known: Way) -> list[Way]:
    """The ways to hold against ``known``."""
    fit = plan.config.fit
    quantized = any(record.kind == FAKE_QUANT for record in plan.transforms)
    bf16 = fit.amp == "auto" and plan.task.kind in _TASKS and not quantized
    contiguous = fit.channels_last == "auto" and isinstance(plan.task.input, ImageInput)
    amps = [known.amp, "bf16"] if bf16 else [known.amp]
    layouts = [known.channels_last, False] if contiguous else [known.channels_last]
    threads = [None, *_fewer_threads(plan)]
    ways = (Way(*values) for values in itertools.product(amps, layouts, threads))
    return [way for way in ways if way != known]


def _fewer_threads(plan: Plan) -> list[int]:
    """Numbers of threads below that of each process: a quarter and 1.

    None where a number was given, or where even long steps make no long run.
    """
    fit = plan.config.fit
    steps = fit.epochs * steps_per_epoch(plan)
    short = min(steps, fit.max_steps or steps) * _LONG_STEP_S < _SHORTEST_RUN_S
    if short or fit.threads or requested_threads():
        return []
    several = local_ranks(plan.config.launch, fit.device).count
    most = min(torch.get_num_threads(), usable_cores(several))
    return sorted({max(most // 4, 1), 1} - {most}, reverse=True)


def _time(plan: Plan, known: Way, others: Sequence[Way]) -> tuple[list[Timed], str]:
    """Time the others against ``known``, and why bf16 is not among them where it fails on this CPU.

    Nothing is timed where the run is too short. The model is the run's own; it does not learn here, as
    the learning rate is 0.
    """
    with trial_job(plan, share=True) as trial:
        job = trial.job
        if job.total_steps < _FEWEST_STEPS:
            return [], ""
        if plan.config.fit.head_epochs:  # the time of the run is that of all layers
            job.model.freezing.apply(job.model.module, 1.0)
        set_train_mode(job.model.module)
        set_lr(job.optimizer, 0.0)
        if not has_images(job.model.module):
            others = [way for way in others if way.channels_last == known.channels_last]
        source = training_batches(job)
        batches = [next(source)]
        step_s = min(_undisturbed_s(job, known, batches) for _ in range(3))
        if step_s > _LONG_STEP_S:
            others = [way for way in others if way.threads is None]
        if job.total_steps * step_s < _SHORTEST_RUN_S or not others:
            source.close()
            return [], ""
        count = min(math.ceil(_BLOCK_S / step_s), len(job.batches))
        batches += [next(source) for _ in range(count - 1)]
        source.close()
        others, reason = _able(job, others, batches[0], known, step_s)
        if not others:
            return [], reason
        budget = min(max(_SHARE_OF_RUN * job.total_steps * step_s, _LEAST_S), _MOST_S)
        rounds = int(budget / (step_s * count * (1 + len(others))))
        rounds = min(max(rounds, _ROUNDS.start), _ROUNDS.stop - 1)
        seconds_of: dict[Way, list[float]] = {way: [] for way in (known, *others)}
        for _ in range(rounds):
            for way, seconds in seconds_of.items():
                seconds.append(_seconds(job, way, batches))
    return [_compare(way, seconds_of[known], seconds_of[way]) for way in others], reason


def _able(
    job: FitJob, ways: Sequence[Way], batch: Batch, known: Way, step_s: float
) -> tuple[list[Way], str]:
    """The ways in which a step can be computed in little more than ``step_s``; why others are left out.

    bf16 is first tried in another process: where a CPU lacks instructions that it announces, it dies.
    Where it has no kernels for bf16 no step in it is tried: one of a ResNet on photos took two minutes
    on a CPU with AVX2 alone. The first step of a way also makes its kernels, so up to two more are timed
    where it is slow.
    """
    able: list[Way] = []
    reasons: list[str] = []
    slow: list[str] = []
    for way in ways:
        if way.amp == "bf16" != job.precision.name and not cpu_has_bf16_kernels():
            reasons.append("bf16 is left out: this CPU has no instructions for it")
            continue
        try:
            resolve_precision(way.amp, job.device)
            slowdown = _slowdown(job, way, batch, step_s)
        except (RuntimeError, DlcliError) as exc:
            if way.amp == job.precision.name:
                raise
            reasons.append(f"bf16 is left out: {first_line(exc)}")
            continue
        if slowdown <= _MOST_SLOWDOWN:
            able.append(way)
        elif way.threads is None:
            as_long = "x" if slow else "x as long"
            slow.append(f"{slowdown:.1f}{as_long} in {way.describe(has_images(job.model.module))}")
    if slow:
        name = known.describe(has_images(job.model.module))
        first = f"slower than {name}" if able else f"{name} is the fastest on this CPU"
        reasons.append(f"{first}: steps take {', '.join(slow)}")
    return able, "; ".join(dict.fromkeys(reasons))


def _slowdown(job: FitJob, way: Way, batch: Batch, step_s: float) -> float:
    """The time of a way's step over ``step_s``: the best of up to three."""
    best = math.inf
    for _ in range(3):
        best = min(best, _undisturbed_s(job, way, [batch]) / step_s)
        if best <= _MOST_SLOWDOWN or best > _HOPELESS:
            break
    return best


def _sentence(chosen: Way, known: Way, timed: Sequence[Timed]) -> str:
    """What was chosen, and how fast: "bf16: 2.3x float32 on this CPU"."""
    images = len({way.channels_last for way in (known, *(one.way for one in timed))}) > 1
    if chosen != known:
        speed = next(one.speedup for one in timed if one.way == chosen)
        if chosen.threads:
            known = replace(known, threads=torch.get_num_threads())
        return f"{chosen.describe(images)}: {speed:.1f}x {known.describe(images)} on this CPU"
    others = ", ".join(f"{one.way.describe(images)} {one.speedup:.2f}x" for one in timed)
    return (
        f"{known.describe(images)}: nothing else is {_LEAST_SPEEDUP:g}x as fast on this CPU ({others})"
    )


def _compare(way: Way, reference: Sequence[float], seconds: Sequence[float]) -> Timed:
    pairs = [a / b for a, b in zip(reference, seconds, strict=True)]
    return Timed(way, min(reference) / min(seconds), statistics.median(pairs))


def _seconds(job: FitJob, way: Way, batches: Sequence[Batch]) -> float:
    """Seconds a step over the batches, after one that is not counted where the optimizer starts anew."""
    with _computing(job, way):
        if not job.optimizer.state:
            optimizer_step(job, batches[0], batches[0].count * job.world.size)
        started = time.perf_counter()
        for batch in batches:
            optimizer_step(job, batch, batch.count * job.world.size)
        return (time.perf_counter() - started) / len(batches)


def _undisturbed_s(job: FitJob, way: Way, batches: Sequence[Batch]) -> float:
    """Seconds a step would take on a machine that is free: at most what it used of processors.

    Short runs stay short where other programs are running.
    """
    started = time.process_time()
    seconds = _seconds(job, way, batches)
    return min(seconds, (time.process_time() - started) / len(batches))


@contextmanager
def _computing(job: FitJob, way: Way) -> Iterator[None]:
    """Context in which the job's steps are computed in a way; outside it is as `make_job` built it."""
    module, precision, handle = job.model.module, job.precision, None
    threads = torch.get_num_threads()
    torch.set_num_threads(way.threads or threads)
    if not way.channels_last:
        handle = make_contiguous(module)
        job.optimizer.state.clear()  # moments have the strides of their weights
    job.precision = job.objective.precision = Precision(way.amp, job.device)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        job.precision = job.objective.precision = precision
        if handle is not None:
            handle.remove()
            module.to(memory_format=torch.channels_last)
            job.optimizer.state.clear()
