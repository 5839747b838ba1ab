"""Turns between workers: fake ones, which speak the protocol but load nothing, well and ill."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcli.benchmark import interleaved as rounds
from dlcli.benchmark import process
from dlcli.benchmark.interleaved import Candidate, Timing, time_models
from dlcli.benchmark.process import Worker
from dlcli.benchmark.statistics import paired, speed_of, unbeaten
from dlcli.events import EvalProgress, Event, Warned

# What it is called says how it behaves. It notes every turn in turns.txt beside itself.
FAKE = """
import json, os, signal, sys, time
job = json.loads(sys.argv[1])
folder, kind = os.path.split(job["path"])
def say(**answer):
    print(json.dumps(answer), flush=True)
if kind == "broken":
    say(error="it is damaged", hint="copy it again")
    sys.exit()
if kind == "dies-at-start":
    sys.exit("Traceback (most recent call last):\\nImportError: no libfoo.so")
if kind == "silent":
    time.sleep(600)
say(device=f"cpu ({job['threads']} threads, OMP {os.environ['OMP_NUM_THREADS']})")
for line in sys.stdin:
    asked = json.loads(line)
    size = asked.get("batch_size")
    if asked["op"] == "warm" and kind == "small" and size > 1:
        say(error="it takes batches of 1")
    elif asked["op"] == "time":
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        with open(os.path.join(folder, "turns.txt"), "a") as file:
            file.write(f"{kind}:{size} ")
        slow = 2 if kind == "slow" else 1
        say(ms=[1.0 * size * slow, 3.0 * size * slow, 2.0 * size * slow], restless=kind == "slow")
    elif asked["op"] == "memory":
        say(peak_mib=12.5)
    else:
        say()
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "child_command", lambda module, job: [sys.executable, "-c", FAKE, job])
    monkeypatch.setattr(rounds, "busy_cores", lambda: 0.1)


def run(
    folder: Path, *kinds: str, seen: list[Event] | None = None, timeout_s: float = 30.0
) -> dict[str, Timing]:
    found = time_models(
        [Candidate(folder / kind) for kind in kinds],
        (np.zeros((4, 2), dtype=np.float32),),
        (1, 4),
        rounds=2,
        threads=1,
        timeout_s=timeout_s,
        emit=(lambda event: None) if seen is None else seen.append,
    )
    return dict(zip(kinds, found, strict=True))


@pytest.mark.usefixtures("fake")
def test_workers_are_asked_in_turns_and_every_other_round_backwards(tmp_path: Path) -> None:
    seen: list[Event] = []
    found = run(tmp_path, "fast", "slow", seen=seen)
    turns = (tmp_path / "turns.txt").read_text().split()
    assert turns == ["fast:1", "slow:1", "fast:4", "slow:4", "slow:1", "fast:1", "slow:4", "fast:4"]
    fast, slow = found["fast"], found["slow"]
    assert fast.device == "cpu (1 threads, OMP 1)"
    assert fast.speeds[4].rounds == (8.0, 8.0)
    assert fast.speeds[4].calls == 6
    assert fast.speeds[4].throughput == pytest.approx(500)
    assert fast.peak_mib == 12.5
    assert fast.startup_s > 0
    assert (fast.restless, slow.restless) == (False, True)
    warned = [e.message for e in seen if isinstance(e, Warned)]
    assert len(warned) == 1
    assert warned[0].startswith("the threads of slow keep")
    done = [e for e in seen if isinstance(e, EvalProgress) and e.split == "timing"]
    assert (done[-1].done, done[-1].total, done[-1].unit) == (4, 4, "turns")


@pytest.mark.usefixtures("fake")
def test_one_that_fails_has_an_error_and_the_others_go_on(tmp_path: Path) -> None:
    kinds = ("broken", "dies-at-start", "killed", "small", "fast")
    found = run(tmp_path, *kinds)
    assert found["broken"].error == "it is damaged (copy it again)"
    assert (
        found["dies-at-start"].error == "its process ended with exit code 1: ImportError: no libfoo.so"
    )
    assert found["killed"].error == (
        "its process ended with SIGKILL (killed from outside, most often for lack of memory), at batch 1"
    )
    assert found["small"].error is None
    assert found["small"].failed == {4: "it takes batches of 1"}
    assert list(found["small"].speeds) == [1]
    assert list(found["fast"].speeds) == [1, 4]
    assert all(not found[kind].speeds for kind in kinds[:3])


@pytest.mark.usefixtures("fake")
def test_one_that_gives_no_answer_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    found = run(tmp_path, "silent", "fast", timeout_s=3.0)
    assert time.monotonic() - began < 60
    assert found["silent"].error == "it gave no answer for 3 s and was ended"
    assert found["fast"].error is None


@pytest.mark.usefixtures("fake")
def test_a_busy_machine_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "busy_cores", lambda: 1.8)
    monkeypatch.setattr(rounds, "usable_cores", lambda: 2)
    seen: list[Event] = []
    run(tmp_path, "fast", seen=seen)
    assert any(isinstance(e, Warned) and "1.8 of the 2 cores" in e.message for e in seen)
    monkeypatch.setattr(rounds, "usable_cores", lambda: 8)
    free: list[Event] = []
    run(tmp_path, "fast", seen=free)
    assert not [e for e in free if isinstance(e, Warned)]


@pytest.mark.usefixtures("fake")
def test_no_worker_outlives_its_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker] = []
    begin = Worker.__init__

    def watched(self: Worker, *args: object) -> None:
        begin(self, *args)  # type: ignore[arg-type]
        started.append(self)

    monkeypatch.setattr(Worker, "__init__", watched)
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if isinstance(event, EvalProgress) and event.split == "timing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        time_models(
            [Candidate(tmp_path / "fast"), Candidate(tmp_path / "slow")],
            (np.zeros((1, 2), dtype=np.float32),),
            (1,),
            threads=1,
            emit=stop,
        )
    assert len(started) == 2
    assert all(worker._process.poll() is not None for worker in started)


def test_percentiles_are_of_all_calls_and_throughput_of_the_median() -> None:
    speed = speed_of(8, [[1.0, 2.0, 3.0], [4.0, 100.0]])
    assert (speed.calls, speed.p50_ms, speed.rounds) == (5, 3.0, (2.0, 52.0))
    assert speed.p95_ms == pytest.approx(np.percentile([1, 2, 3, 4, 100], 95))
    assert speed.throughput == pytest.approx(8000 / 3)


def test_ratios_are_of_the_same_round() -> None:
    before, after = speed_of(1, [[4.0], [8.0], [6.0]]), speed_of(1, [[2.0], [2.0], [6.0]])
    ratio = paired(before, after)
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 1.0, 4.0)


numbers = st.floats(-10, 10, width=16)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8))
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    front = unbeaten(points)
    assert any(front)
    for (value, cost), best in zip(points, front, strict=True):
        beaten = any(v >= value and c <= cost and (v, c) != (value, cost) for v, c in points)
        assert best != beaten


def test_what_was_not_measured_is_on_no_front() -> None:
    assert unbeaten([None, (float("nan"), 1.0), (0.5, 2.0), (0.5, 2.0), (0.4, 3.0)]) == [
        False, False, True, True, False,
    ]  # fmt: skip
