"""What only a CUDA device can show: the same answers as the CPU, mixed precision, resuming there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import write_photos

from dlcli.config import TrainConfig
from dlcli.data.base import ArrayReader, Samples, Stacked
from dlcli.events import Event, StepDone, ignore
from dlcli.formats.base import open_artifact
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop.batch_plan import BatchPlan
from dlcli.training.loop.loader import CopyStream, Gathered, TrainBatches
from dlcli.training.loop.state import load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BASE: dict[str, Any] = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"dropout": 0.2}},
    "fit": {"epochs": 3, "device": "cuda", "log_every": 0},
}


def train(root: Path, emit: Any = ignore, **changes: Any) -> training.TrainResult:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))
    prepared = prepare_run(plan)
    return training.train(prepared, training.new_run(prepared, root, "run"), emit, state=None)


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16", "auto"])
def test_it_learns_in_every_precision(tmp_path: Path, amp: str) -> None:
    seen: list[StepDone] = []

    def emit(event: Event) -> None:
        if isinstance(event, StepDone):
            seen.append(event)

    result = train(tmp_path, emit, fit={"amp": amp})
    assert result.validation is not None
    assert result.validation.metrics["accuracy"] > 0.9
    assert seen[-1].memory_mib is not None
    assert seen[-1].memory_mib > 0


def test_the_artifact_predicts_alike_on_both_devices(tmp_path: Path) -> None:
    best = train(tmp_path).run.best
    pixels = np.random.default_rng(0).integers(0, 256, (33, 8, 8, 1), dtype=np.uint8)
    cpu, cuda = open_artifact(best, device="cpu"), open_artifact(best, device="cuda")
    a, b = cpu.predict((pixels,)), cuda.predict((pixels,))
    # cuDNN may multiply convolutions in TF32: ten bits of mantissa.
    assert np.allclose(a, b, atol=2e-2 * max(1.0, float(np.abs(a).max())))
    assert (a.argmax(1) == b.argmax(1)).mean() > 0.9


def test_a_stopped_run_goes_on_and_ends_as_well(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 30:
            raise Killed

    changes = {"fit": {"checkpoint_every": "10"}}
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))
    run = training.new_run(prepare_run(plan), tmp_path, "run")
    with pytest.raises(Killed):
        training.train(prepare_run(plan), run, emit, state=None)
    state, _ = load_newest(run.state)
    assert state is not None
    assert state.progress.step == 20
    result = training.train(prepare_run(read_plan(read_run(run), fresh=False)), run, ignore, state=state)
    assert result.fit.progress.epoch == 3
    assert result.validation is not None
    assert result.validation.metrics["accuracy"] > 0.9


def test_a_batch_of_a_split_on_the_device_waits_for_nothing() -> None:
    values = np.arange(64, dtype=np.float32).reshape(32, 2)
    samples = Samples(tuple(map(str, range(32))), np.arange(32, dtype=np.int64), Stacked(values))
    reader = ArrayReader(samples, (values,))
    batches = TrainBatches(reader, BatchPlan(8), seed=0, device=torch.device("cuda"))
    next(batches.epoch(0))  # the split is put there
    torch.cuda.set_sync_debug_mode("error")
    try:
        parts = [batch.take(np.array([1, 3])) for batch in batches.epoch(0)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for part in parts:
        assert torch.equal(part.inputs[0][:, 0].cpu(), 2.0 * part.targets.cpu())


def test_batches_are_copied_while_the_device_computes() -> None:
    values = np.random.default_rng(0).standard_normal((64, 1 << 18)).astype(np.float32)  # 1 MiB each
    samples = Samples(tuple(map(str, range(64))), np.arange(64, dtype=np.int64), Stacked(values))

    class Streamed(ArrayReader):
        def array(self) -> None:
            return None

    device = torch.device("cuda")
    batches = TrainBatches(Streamed(samples, (values,)), BatchPlan(8), seed=0, device=device)
    kept, sums = torch.zeros(1 << 12, 1 << 12, device=device), []
    copies: list[torch.cuda.Stream] = []
    for _ in range(3):
        for batch in batches.epoch(0):
            kept = kept @ kept + 1e-3  # the default stream is busy when the next batch is copied
            sums.append((batch.indices, batch.inputs[0].double().sum(1)))
            del batch
    for indices, total in sums:
        expected = values[indices].astype(np.float64).sum(1)
        assert np.allclose(total.cpu().numpy(), expected, rtol=1e-9, atol=1e-6)
    stream, before = CopyStream(device), torch.cuda.current_stream(device)
    host = torch.zeros(2).pin_memory()

    def read(indices: np.ndarray) -> Gathered:
        copies.append(torch.cuda.current_stream(device))
        rows = host.to(device, non_blocking=True)
        return (rows,), rows, indices, 2

    torch.cuda.set_sync_debug_mode("error")
    try:
        stream.arrived(stream.copied(read, np.arange(2)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert copies[0] != before == torch.cuda.current_stream(device)


def test_a_run_from_a_reader_that_streams_learns(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    result = train(
        tmp_path / "runs",
        data={"data": str(tmp_path / "photos"), "cache": "none"},
        model={"name": "cnn", "img_size": 32, "args": {"dropout": 0.0}},
        augment={"level": "standard"},
        fit={"epochs": 4, "batch_size": 16},
    )
    assert result.validation is not None
    assert result.validation.metrics["accuracy"] > 0.8
