"""Where the time of a run goes: every moment has a phase, and a resumed run adds to the earlier ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.config import TrainConfig
from dlcli.data.images.reader import PixelReader
from dlcli.events import Event, RunFinished, ignore
from dlcli.machine.load import queue_wait_s
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop import phases
from dlcli.training.loop.phases import PHASES, DeviceWork, PhaseClock, time_record
from dlcli.training.loop.state import Progress, load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run

# 1,439 training digits in batches of 300: 5 steps an epoch.
BASE = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [4, 8], "hidden": 16}},
    "fit": {"epochs": 2, "batch_size": 300, "log_every": 0, "device": "cpu"},
}


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that only the test moves."""
    now = [100.0]
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


class Device(DeviceWork):
    """A device that is at work or not."""

    def __init__(self) -> None:
        self.busy = False

    def unfinished(self) -> bool:
        return self.busy


def test_a_phase_within_another_is_not_counted_twice(tick: Callable[[float], None]) -> None:
    clock = PhaseClock()
    tick(1)
    with clock.phase("evaluation"):
        tick(2)
        with clock.phase("saving"):
            tick(4)
        tick(8)
    tick(16)
    with suppress(KeyError), clock.phase("step"):
        tick(32)
        raise KeyError
    tick(64)
    assert clock.seconds() == {"data": 0, "step": 32, "evaluation": 10, "saving": 4, "other": 81}
    assert clock.elapsed() == 127


@pytest.mark.parametrize(("busy", "data", "step"), [(False, 11, 0), (True, 0, 11)])
def test_a_wait_counts_only_where_the_device_waits_too(
    tick: Callable[[float], None], busy: bool, data: int, step: int
) -> None:
    clock, device = PhaseClock(), Device()

    def batches() -> Any:
        for number in range(2):
            tick(5)
            device.busy = busy
            yield number
        tick(1)

    for _ in clock.waits(batches(), device):
        tick(100)
    assert clock.seconds() == {
        "data": data, "step": step, "evaluation": 0, "saving": 0, "other": 200
    }  # fmt: skip


def test_what_an_older_state_did_not_divide_is_other(tick: Callable[[float], None]) -> None:
    clock = PhaseClock()
    clock.start({"step": 3.0}, 10.0)
    tick(5)
    assert clock.seconds() == {"data": 0, "step": 3, "evaluation": 0, "saving": 0, "other": 12}


def test_a_cpu_is_never_seen_at_work() -> None:
    work = DeviceWork(torch.device("cpu"))
    work.mark()
    assert not work.unfinished()


def train(root: Path, emit: Callable[[Event], None] = ignore, **changes: Any) -> training.TrainResult:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))
    prepared = prepare_run(plan)
    return training.train(prepared, training.new_run(prepared, root, "run"), emit, state=None)


def test_the_phases_of_a_run_are_its_time_and_a_resume_adds_to_them(tmp_path: Path) -> None:
    events: list[Event] = []
    first = train(tmp_path, events.append)
    before = first.fit.progress
    assert tuple(before.phase_s) == PHASES
    assert all(seconds > 0 for seconds in before.phase_s.values())
    assert sum(before.phase_s.values()) == before.elapsed_s
    assert before.trained == 2 * 1439
    (finished,) = (event for event in events if isinstance(event, RunFinished))
    assert finished.phase_s == before.phase_s
    assert finished.unit == "images"
    speed = 2 * 1439 / (before.phase_s["data"] + before.phase_s["step"])
    assert finished.samples_per_s == pytest.approx(speed)
    record = json.loads(first.run.record.read_text())["time"]
    assert record == time_record(before)
    assert sum(record["shares"].values()) == pytest.approx(1, abs=1e-3)

    state, _ = load_newest(first.run.state)
    longer = read_run(first.run).with_changes({"fit": {"epochs": 3}})
    prepared = prepare_run(read_plan(longer, fresh=False))
    after = training.train(prepared, first.run, ignore, state=state).fit.progress
    assert after.trained == 3 * 1439
    # The saving of the last state itself is not in it, as with the elapsed time.
    assert all(after.phase_s[phase] > before.phase_s[phase] for phase in PHASES)
    assert sum(after.phase_s.values()) == after.elapsed_s


def test_slow_decoding_is_waiting_for_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = PixelReader.read

    def slow(self: PixelReader, indices: Any) -> Any:
        time.sleep(0.3)
        return read(self, indices)

    monkeypatch.setattr(PixelReader, "read", slow)
    monkeypatch.setattr(PixelReader, "array", lambda self: None)
    progress = train(tmp_path, fit={"epochs": 1, "batch_size": 720}).fit.progress
    # Batches are read ahead, so that the wait for the first one is the only sure one.
    assert progress.phase_s["data"] > 0.25
    assert progress.phase_s["evaluation"] > 0.25  # its own reading is evaluation


def test_a_run_without_a_step_has_no_speed() -> None:
    assert time_record(Progress())["samples_per_s"] is None


@pytest.mark.skipif(queue_wait_s() is None, reason="the kernel counts no waiting for a core")
def test_the_wait_for_a_core_is_counted_where_others_have_it() -> None:
    """Two processes that never rest share one core with this one."""
    core = min(os.sched_getaffinity(0))
    busy = f"import os\nos.sched_setaffinity(0, [{core}])\nprint(flush=True)\nwhile True: pass"
    allowed = os.sched_getaffinity(0)
    others = [subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        os.sched_setaffinity(0, [core])
        clock = PhaseClock()
        clock.start({}, 0.0)
        end = time.perf_counter() + 1.0
        while time.perf_counter() < end:
            pass
        assert 0.3 < clock.core_wait() < 1.0
    finally:
        os.sched_setaffinity(0, allowed)
        for other in others:
            other.kill()
            other.communicate()
