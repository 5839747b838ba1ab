"""One optimizer step is the same however its batch is divided, and survives what meets it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError
from dlcli.events import EpochDone, Event, StepDone, Warned, ignore
from dlcli.runs.folder import RunFolder
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.build_job import make_job
from dlcli.training.distributed.world import ALONE
from dlcli.training.loop import step as step_module
from dlcli.training.loop.batch_plan import BatchPlan, portions
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import micro_batches, non_finite_gradients, optimizer_step
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan
from dlcli.training.prepare import prepare_run
from dlcli.training.readers import make_readers
from dlcli.training.sync_batchnorm import RunningStatistics

BASE = {
    "data": {"data": "digits"},
    "model": {"name": "mlp", "args": {"widths": [8], "norm": "none", "dropout": 0.0}},
    "optim": {"optimizer": "momentum", "lr": 0.1},
    "fit": {"epochs": 1, "batch_size": 32, "device": "cpu", "log_every": 0},
}


def plan(**changes: Any) -> Plan:
    return make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))


def job_of(tmp_path: Path, emit: Callable[[Event], None] = ignore, **changes: Any) -> FitJob:
    run_plan = plan(**changes)
    module, *_ = run_plan.build()
    readers = make_readers(run_plan, ALONE)
    cpu = torch.device("cpu")
    return make_job(run_plan, RunFolder(tmp_path), module, None, readers, cpu, emit, ALONE).job


def train(root: Path, emit: Callable[[Event], None] = ignore, **changes: Any) -> training.TrainResult:
    run_plan = plan(**changes)
    prepared = prepare_run(run_plan)
    return training.train(prepared, training.new_run(prepared, root, "run"), emit, state=None)


@pytest.mark.parametrize("samples", [1, 2, 7, 32, 33])
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("mirrored", [False, True])
def test_portions_cover_a_batch_once(samples: int, parts: int, mirrored: bool) -> None:
    shares = portions(samples, parts, mirrored=mirrored)
    assert len(shares) == parts
    assert sorted(np.concatenate(shares).tolist()) == list(range(samples))
    if mirrored:
        for share in shares:  # reversing a share partners as reversing the whole does
            assert (share[::-1] == samples - 1 - share).all()
    else:
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("plan", "micro_batch", "sentence"),
    [
        (BatchPlan(256), 256, ""),
        (BatchPlan(256, 2, 4), 32, "256 = 2 devices x 4 micro-batches x 32"),
        (BatchPlan(256, grad_accum_steps=3), 86, "256 = 3 micro-batches x up to 86"),
        (BatchPlan(256, 2, memory_limit=20), 20, "256 = 2 devices x 7 micro-batches x up to 20"),
        (BatchPlan(3, 8, 8), 1, "3 = 8 devices x up to 1"),
    ],
)
def test_a_batch_plan_says_how_a_batch_is_divided(
    plan: BatchPlan, micro_batch: int, sentence: str
) -> None:
    assert plan.micro_batch == micro_batch
    assert plan.sentence == sentence


def test_memory_only_lowers_the_limit_of_a_batch_plan() -> None:
    plan = BatchPlan(64)
    assert plan.limited(None) == plan
    assert plan.limited(8).micro_batch == 8
    assert plan.limited(8).limited(16).micro_batch == 8


TEXTS = "text,label\n" + "".join(
    f"{' '.join('abcdefg'[(i + j) % 7] * 2 for j in range(1 + i % 5))},{'xy'[i % 2]}\n"
    for i in range(60)
)


@pytest.mark.parametrize("accum", [2, 3, 4])
@pytest.mark.parametrize("kind", ["plain", "mixed", "ragged"])
def test_micro_batches_give_the_gradient_of_the_batch(tmp_path: Path, accum: int, kind: str) -> None:
    changes: dict[str, Any] = {}
    if kind == "mixed":
        changes = {"augment": {"mixup": 0.4, "cutmix": 1.0, "flip": 0.0}}
    if kind == "ragged":
        (tmp_path / "texts.csv").write_text(TEXTS)
        changes = {
            "data": {"data": str(tmp_path / "texts.csv")},
            "model": {"name": "lstm", "args": None},
        }
        base = {k: v for k, v in BASE.items() if k != "model"}
    gradients = []
    for divided in (1, accum):
        fit = {"grad_accum_steps": divided, "batch_size": 19}
        if kind == "ragged":
            settings = merge(
                base,
                {"data": changes["data"], "fit": fit},
                {"model": {"name": "lstm", "args": {"dropout": 0.0, "token_dropout": 0.0}}},
            )
            run_plan = make_plan(
                lambda recipe, settings=settings: validate(TrainConfig, merge(recipe, settings))
            )
            module, *_ = run_plan.build()
            readers, cpu = make_readers(run_plan, ALONE), torch.device("cpu")
            job = make_job(run_plan, RunFolder(tmp_path), module, None, readers, cpu, ignore, ALONE).job
        else:
            job = job_of(tmp_path, **merge(changes, {"fit": fit}))
        set_train_mode(job.model.module)
        batches = list(job.batches.epoch(0))
        for batch in (batches[0], batches[-1]):  # the last one is short
            optimizer_step(job, batch, batch.count)
            gradients.append(
                [p.grad.clone() for p in job.model.module.parameters() if p.grad is not None]
            )
    for whole, parts in zip(gradients[:2], gradients[2:], strict=True):
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


class Memory:
    """Stands in for a device that holds so many samples."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, samples: int, *, words: bool = False) -> None:
        real = step_module._forward_backward

        def forward_backward(job: FitJob, batch: Any, *rest: Any) -> Any:
            if len(batch) > samples:
                raise RuntimeError("can't allocate memory") if words else torch.OutOfMemoryError("CUDA")
            return real(job, batch, *rest)

        monkeypatch.setattr(step_module, "_forward_backward", forward_backward)


@pytest.mark.parametrize("words", [False, True])
def test_out_of_memory_halves_the_micro_batch_and_not_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: bool
) -> None:
    plain = train(tmp_path / "plain")
    Memory(monkeypatch, 10, words=words)
    seen: list[Event] = []
    small = train(tmp_path / "small", seen.append)
    warnings = [event.message for event in seen if isinstance(event, Warned)]
    assert [text for text in warnings if "micro-batches of 8 instead of 16" in text]
    assert json.loads(small.run.record.read_text())["micro_batch"] == 8
    assert plain.validation is not None
    assert small.validation is not None
    assert small.validation.metrics["loss"] == pytest.approx(plain.validation.metrics["loss"], rel=1e-4)


def test_memory_for_no_sample_at_all_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(monkeypatch, 0)
    with pytest.raises(DlcliError, match="out of memory with a single sample") as caught:
        train(tmp_path)
    assert "--img-size" in (caught.value.hint or "")


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the loss of some steps no number."""
    real = step_module._forward_backward

    def forward_backward(job: FitJob, batch: Any, *rest: Any) -> Any:
        if poisoned(job):
            objective, loss = job.objective, job.objective.loss
            objective.loss = lambda *args: tuple(t * math.nan for t in loss(*args))
            try:
                return real(job, batch, *rest)
            finally:
                objective.loss = loss
        return real(job, batch, *rest)

    taken = -1

    def poisoned(job: FitJob) -> bool:
        nonlocal taken
        taken += 1
        return taken in steps

    monkeypatch.setattr(step_module, "_forward_backward", forward_backward)


def test_a_step_without_a_finite_gradient_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {3, 4, 9})
    seen: list[Event] = []
    result = train(tmp_path, seen.append)
    assert result.fit.progress.skipped == 3
    assert result.fit.progress.bad_streak == 0
    epoch = next(event for event in seen if isinstance(event, EpochDone))
    assert epoch.skipped == 3
    assert math.isfinite(epoch.loss)
    steps = [event for event in seen if isinstance(event, StepDone)]
    assert all(math.isfinite(event.loss) for event in steps)


def test_too_many_such_steps_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, set(range(8, 1000)))
    with pytest.raises(
        DlcliError, match=r"last 5 steps(, of .+)?, up to step 12: training has diverged"
    ):
        train(tmp_path, fit={"max_bad_steps": 5})


def test_a_run_without_any_update_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, set(range(1000)))
    with pytest.raises(DlcliError, match="training has diverged"):
        train(tmp_path, fit={"batch_size": 500})


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    for optim, bound in (({"clip_grad_norm": 0.01}, "norm"), ({"clip_grad_value": 0.001}, "value")):
        job = job_of(tmp_path, optim=optim)
        batch = next(job.batches.epoch(0))
        output = optimizer_step(job, batch, batch.count)
        gradient = torch.cat(
            [p.grad.flatten() for p in job.model.module.parameters() if p.grad is not None]
        )
        assert float(output.grad_norm) > 0.1  # before clipping
        if bound == "norm":
            assert float(gradient.norm()) == pytest.approx(0.01, rel=1e-4)
        else:
            assert float(gradient.abs().max()) == pytest.approx(0.001)


def test_a_last_sample_that_was_taken_in_divides_no_batch(tmp_path: Path) -> None:
    job = job_of(tmp_path, fit={"batch_size": 719})  # 1,439 training digits: 719 and 720
    sizes: list[int] = []
    inner = job.model.forward
    job.model.forward = lambda x: (sizes.append(len(x)), inner(x))[1]
    for batch in job.batches.epoch(0):
        optimizer_step(job, batch, batch.count)
    assert sizes == [719, 720]


def test_no_micro_batch_of_pairs_is_a_single_sample(tmp_path: Path) -> None:
    job = job_of(tmp_path, fit={"batch_size": 7, "grad_accum_steps": 4})
    batch = next(job.batches.epoch(0))
    assert [len(part) for part in micro_batches(job, batch)] == [3, 2, 2]


def test_an_optimizer_without_memory_is_no_matter_of_the_batch(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    batch = next(job.batches.epoch(0))

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    job.optimizer.step = fail  # type: ignore[assignment,method-assign]
    with pytest.raises(DlcliError, match="no memory left for the state of momentum") as caught:
        optimizer_step(job, batch, batch.count)
    assert job.batches.plan.memory_limit is None
    assert "--optimizer" in str(caught.value.hint)


NORMS = {"model": {"args": {"norm": "batch"}}}


def running(job: FitJob) -> dict[str, torch.Tensor]:
    return {name: b.clone() for name, b in job.model.module.named_buffers()}


def test_a_step_that_is_left_out_leaves_no_trace_in_batch_norms(tmp_path: Path) -> None:
    job = job_of(tmp_path, **NORMS)
    set_train_mode(job.model.module)
    batch, inner = next(job.batches.epoch(0)), job.model.forward
    optimizer_step(job, batch, batch.count)
    before = running(job)
    job.model.forward = lambda x: inner(x * math.nan)
    output = optimizer_step(job, batch, batch.count)
    assert output.updated is False
    after = running(job)
    assert before
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_step_that_is_done_again_counts_once_in_batch_norms(tmp_path: Path) -> None:
    buffers = []
    for fails in (False, True):
        job = job_of(tmp_path, **NORMS, fit={"grad_accum_steps": 1 if fails else 2})
        set_train_mode(job.model.module)
        batch, inner, left = next(job.batches.epoch(0)), job.model.forward, [fails]

        def forward(x: torch.Tensor, inner: Any = inner, left: list[bool] = left) -> torch.Tensor:
            out: torch.Tensor = inner(x)
            if left.pop() if left else False:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return out

        job.model.forward = forward
        optimizer_step(job, batch, batch.count)
        buffers.append(running(job))
    assert all(torch.equal(buffers[1][name], value) for name, value in buffers[0].items())


@pytest.mark.parametrize("counts", [False, True])
def test_a_device_decides_whether_statistics_are_put_back(counts: bool) -> None:
    norm = torch.nn.BatchNorm1d(3)
    statistics = RunningStatistics(torch.nn.Sequential(norm))
    statistics.save()
    norm(torch.full((4, 3), math.nan))
    statistics.restore(unless=torch.tensor(counts))
    assert norm.running_mean is not None
    assert bool(torch.isnan(norm.running_mean).all()) is counts
    assert int(norm.num_batches_tracked or 0) == counts


def test_the_parameters_without_a_finite_gradient_are_named() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert non_finite_gradients(module) == ""
    module.get_parameter("0.bias").grad = torch.tensor([0.0, math.nan])
    assert non_finite_gradients(module) == ", of 0.bias"
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, math.inf)
    assert non_finite_gradients(module) == ""
