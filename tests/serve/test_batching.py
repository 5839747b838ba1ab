"""Requests that share a call: each gets its own outputs, whatever becomes of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import tiny

from dlcli.data.base import Inputs
from dlcli.formats.base import Outputs
from dlcli.serve.batching import MicroBatcher


class Gate:
    """A model that doubles its rows, one call at a time once it is opened; NaN is more than it takes."""

    def __init__(self) -> None:
        self.open, self.begun, self.sizes = threading.Event(), threading.Event(), list[int]()

    def __call__(self, inputs: Inputs) -> Outputs:
        self.begun.set()
        assert self.open.wait(10)
        self.sizes.append(len(inputs[0]))
        if np.isnan(inputs[0]).any():
            raise ValueError("NaN")
        return (2 * inputs[0]).astype(np.float32)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def batches(gate: Gate) -> Iterator[MicroBatcher]:
    batcher = MicroBatcher(gate, tiny.make_task(tiny.table(), "regression"), max_batch=8, max_wait_s=0.0)
    yield batcher
    gate.open.set()
    batcher.close()


def rows(value: float) -> Inputs:
    return (np.full((1, 3), value, np.float32),)


def test_what_waits_becomes_one_call(gate: Gate, batches: MicroBatcher) -> None:
    first = batches.submit(rows(0.0))
    assert gate.begun.wait(10)
    others = [batches.submit(rows(value)) for value in (1.0, 2.0, 3.0)]
    gate.open.set()
    assert [float(each.result(10)[0, 0]) for each in (first, *others)] == [0.0, 2.0, 4.0, 6.0]
    assert gate.sizes == [1, 3]


def test_a_request_that_fails_spoils_no_other(gate: Gate, batches: MicroBatcher) -> None:
    batches.submit(rows(0.0))
    assert gate.begun.wait(10)
    good, bad = batches.submit(rows(1.0)), batches.submit(rows(np.nan))
    gate.open.set()
    assert float(good.result(10)[0, 0]) == 2.0
    with pytest.raises(ValueError, match="NaN"):
        bad.result(10)


def test_a_cancelled_request_leaves_the_others_their_outputs(gate: Gate, batches: MicroBatcher) -> None:
    """As when a client goes away: asyncio cancels what its request awaits."""
    running = batches.submit(rows(0.0))
    assert gate.begun.wait(10)
    assert not running.cancel()  # its call has begun
    alone = batches.submit(rows(1.0))
    assert alone.cancel()
    gate.open.set()
    assert float(running.result(10)[0, 0]) == 0.0
    gone, other = batches.submit(rows(2.0)), batches.submit(rows(3.0))
    gone.cancel()
    assert float(other.result(10)[0, 0]) == 6.0
