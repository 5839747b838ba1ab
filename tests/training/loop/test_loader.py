"""Order is a function of (seed, epoch); every sample comes once, whatever the batch."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlcli.data.base import Samples, Stacked
from dlcli.data.images.reader import PixelReader
from dlcli.data.prefetch import prefetch
from dlcli.task import ImageInput
from dlcli.training.loop.batch_plan import BatchPlan, batch_bounds
from dlcli.training.loop.loader import TrainBatches

SPEC = ImageInput(channels=1, height=2, width=2, resize="squash", resize_size=2, mean=(0.5,), std=(0.5,))


def reader(n: int, *, cache_bytes: int = 1 << 20) -> PixelReader:
    pixels = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 2, 2, 1))
    samples = Samples(
        ids=tuple(f"train/{i}" for i in range(n)),
        targets=np.arange(n, dtype=np.int64),
        items=Stacked(np.ascontiguousarray(pixels)),
    )
    return PixelReader(samples, SPEC, workers=1, cache_bytes=cache_bytes)


def batches(n: int, size: int, seed: int = 0) -> TrainBatches:
    return TrainBatches(reader(n), BatchPlan(size), seed=seed, device=torch.device("cpu"))


@given(st.integers(1, 300), st.integers(1, 70))
def test_batches_cover_the_split_and_none_is_single(n: int, size: int) -> None:
    bounds = batch_bounds(n, size)
    sizes = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == n
    assert sizes.min() >= 1
    assert sizes.max() <= size + 1
    if size > 1 and n > 1:
        assert sizes.min() >= 2


def test_an_epoch_shows_every_sample_once_with_its_own_target() -> None:
    seen = []
    for batch in batches(23, 5).epoch(0):
        (pixels,) = batch.inputs
        assert torch.equal(pixels[:, 0, 0, 0].long(), batch.targets)
        assert batch.indices.tolist() == batch.targets.tolist()
        seen += batch.targets.tolist()
    assert sorted(seen) == list(range(23))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    one, other = batches(50, 7), batches(50, 9)
    assert np.array_equal(one.order(3), other.order(3))
    assert not np.array_equal(one.order(3), one.order(4))
    assert not np.array_equal(one.order(3), batches(50, 7, seed=1).order(3))


def test_an_epoch_can_start_at_any_batch() -> None:
    whole = [b.targets.tolist() for b in batches(23, 5).epoch(2)]
    for start in range(6):
        assert [b.targets.tolist() for b in batches(23, 5).epoch(2, start=start)] == whole[start:]


def test_prefetch_keeps_order_and_passes_errors_on() -> None:
    def source() -> Iterator[int]:
        yield from range(10)
        raise ValueError("at the end")

    got: list[int] = []

    def drain() -> None:
        for item in prefetch(source()):
            got.append(item)

    with pytest.raises(ValueError, match="at the end"):
        drain()
    assert got == list(range(10))


def test_leaving_early_stops_the_thread() -> None:
    import threading

    before = threading.active_count()
    for item in prefetch(iter(range(1000))):
        if item == 3:
            break
    assert threading.active_count() == before
