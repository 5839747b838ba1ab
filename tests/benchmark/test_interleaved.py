"""Interleaved timing, with fake workers that speak the protocol and load nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcli.benchmark import interleaved, process
from dlcli.benchmark.interleaved import InterleavedTimer, time_models
from dlcli.benchmark.process import Worker
from dlcli.benchmark.slot import RunSpec, Timing
from dlcli.benchmark.statistics import paired_ratio, pareto_front, speed_of
from dlcli.events import EvalProgress, Event, Warned

# The name of the file is how the worker behaves; each turn is appended to turns.txt next to it.
FAKE = """
import json, os, signal, sys, time
job = json.loads(sys.argv[1])
folder, kind = os.path.split(job["path"])
def reply(**message):
    print(json.dumps(message), flush=True)
if kind == "broken":
    reply(error="it is damaged", hint="copy it again")
    sys.exit()
if kind == "dies-at-start":
    sys.exit("Traceback (most recent call last):\\nImportError: no libfoo.so")
if kind == "silent":
    time.sleep(600)
reply(
    device=f"cpu ({job['threads']} threads, OMP {os.environ['OMP_NUM_THREADS']})",
    provider="",
)
for line in sys.stdin:
    request = json.loads(line)
    size = request.get("batch_size")
    if request["op"] == "warmup" and kind == "small" and size > 1:
        reply(error="it takes batches of 1")
    elif request["op"] == "time":
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        with open(os.path.join(folder, "turns.txt"), "a") as file:
            file.write(f"{kind}:{size} ")
        slow = 2 if kind == "slow" else 1
        ms = [1.0 * size * slow, 3.0 * size * slow, 2.0 * size * slow]
        cpu_ms = [0.5 * x for x in ms]
        waited = 0.6 if kind == "queued" and job["threads"] > 1 else 0.0
        if kind == "endless":
            time.sleep(min(5, request["limit_s"]))
        if kind == "inverted" and size == 1:
            ms = [100.0 * x for x in ms]
        reply(ms=ms, cpu_ms=cpu_ms, waited=waited, spinning=kind == "slow")
    elif request["op"] == "memory":
        reply(peak_mib=12.5)
    else:
        reply()
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "child_command", lambda module, job: [sys.executable, "-c", FAKE, job])
    monkeypatch.setattr(interleaved, "busy_cores", lambda: 0.1)


def timer_of(
    folder: Path,
    *kinds: str,
    seen: list[Event] | None = None,
    timeout_s: float = 30.0,
    threads: int | None = 1,
    limit_s: float | None = None,
) -> InterleavedTimer:
    return time_models(
        [RunSpec(folder / kind) for kind in kinds],
        (np.zeros((4, 2), dtype=np.float32),),
        (1, 4),
        rounds=2,
        threads=threads,
        timeout_s=timeout_s,
        limit_s=limit_s,
        emit=(lambda event: None) if seen is None else seen.append,
    )


def run(
    folder: Path, *kinds: str, seen: list[Event] | None = None, timeout_s: float = 30.0
) -> dict[str, Timing]:
    timer = timer_of(folder, *kinds, seen=seen, timeout_s=timeout_s)
    return dict(zip(kinds, timer.timings(), strict=True))


@pytest.mark.usefixtures("fake")
def test_workers_are_timed_in_turns_and_every_other_round_in_reverse(tmp_path: Path) -> None:
    seen: list[Event] = []
    timings = run(tmp_path, "fast", "slow", seen=seen)
    turns = (tmp_path / "turns.txt").read_text().split()
    assert turns == ["fast:1", "slow:1", "fast:4", "slow:4", "slow:1", "fast:1", "slow:4", "fast:4"]
    fast, slow = timings["fast"], timings["slow"]
    assert fast.device == "cpu (1 threads, OMP 1)"
    assert fast.speeds[4].rounds == (8.0, 8.0)
    assert fast.speeds[4].calls == 6
    assert fast.speeds[4].throughput == pytest.approx(500)
    assert fast.peak_mib == 12.5
    assert fast.startup_s > 0
    assert (fast.spinning, slow.spinning) == (False, True)
    warned = [e.message for e in seen if isinstance(e, Warned)]
    assert len(warned) == 1
    assert warned[0].startswith("the threads of slow keep")
    done = [e for e in seen if isinstance(e, EvalProgress) and e.split == "timing"]
    assert (done[-1].done, done[-1].total, done[-1].unit) == (4, 4, "rounds")


@pytest.mark.usefixtures("fake")
def test_a_worker_that_fails_has_an_error_and_the_others_are_timed(tmp_path: Path) -> None:
    kinds = ("broken", "dies-at-start", "killed", "small", "fast")
    timings = run(tmp_path, *kinds)
    assert timings["broken"].error == "it is damaged (copy it again)"
    assert (
        timings["dies-at-start"].error == "its process ended with exit code 1: ImportError: no libfoo.so"
    )
    assert timings["killed"].error == (
        "its process ended with SIGKILL (killed from outside, most often for lack of memory), at batch 1"
    )
    assert timings["small"].error is None
    assert timings["small"].failed == {4: "it takes batches of 1"}
    assert list(timings["small"].speeds) == [1]
    assert list(timings["fast"].speeds) == [1, 4]
    assert all(not timings[kind].speeds for kind in kinds[:3])


@pytest.mark.usefixtures("fake")
def test_a_worker_that_does_not_reply_is_killed(tmp_path: Path) -> None:
    t0 = time.monotonic()
    timings = run(tmp_path, "silent", "fast", timeout_s=3.0)
    assert time.monotonic() - t0 < 60
    assert timings["silent"].error == "it did not reply for 3 s and was killed"
    assert timings["fast"].error is None


def busy(monkeypatch: pytest.MonkeyPatch, used: float, cores: int) -> None:
    monkeypatch.setattr(interleaved, "busy_cores", lambda: used)
    monkeypatch.setattr(interleaved, "usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.usefixtures("fake")
def test_where_cores_are_taken_one_thread_is_timed_by_its_cpu_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(monkeypatch, 1.8, 2)
    seen: list[Event] = []
    timer = timer_of(tmp_path, "fast", "slow", seen=seen, threads=None)
    fast, slow = timer.timings()
    assert (timer.threads, timer.clock, timer.doubt) == (1, "cpu", "")
    assert (fast.speeds[1].p50_ms, fast.speeds[1].clock) == (1.0, "cpu")  # half of the wall time
    assert paired_ratio(slow.speeds[1], fast.speeds[1]).known
    warned = [e.message for e in seen if isinstance(e, Warned)]
    assert any("1.8 of the 2 cores" in message and "CPU time" in message for message in warned)


@pytest.mark.usefixtures("fake")
def test_with_requested_threads_a_busy_machine_gives_no_verdict_though_the_rounds_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(monkeypatch, 1.8, 2)
    fast, slow = timer_of(tmp_path, "fast", "slow", threads=2).timings()
    ratio = paired_ratio(slow.speeds[1], fast.speeds[1])
    assert ratio.low == ratio.high == 2.0
    assert not ratio.known
    assert "other programs used 1.8 of the 2 cores" in ratio.doubt


@pytest.mark.usefixtures("fake")
def test_waiting_for_cores_is_noticed_where_the_load_began_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(monkeypatch, 0.1, 2)
    timer = timer_of(tmp_path, "queued", threads=None)
    assert timer.threads == 1  # timed again
    assert (tmp_path / "turns.txt").read_text().split().count("queued:1") == 4
    assert timer.timings()[0].speeds[1].calls == 6
    timer = timer_of(tmp_path, "queued", threads=2)
    assert timer.doubt
    assert timer.timings()[0].speeds[1].doubt == timer.doubt


@pytest.mark.usefixtures("fake")
def test_an_idle_machine_uses_its_cores_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(monkeypatch, 0.2, 8)
    seen: list[Event] = []
    timer = timer_of(tmp_path, "fast", seen=seen, threads=None)
    assert (timer.threads, timer.clock, timer.doubt) == (8, "wall", "")
    assert not [e for e in seen if isinstance(e, Warned)]
    busy(monkeypatch, 1.8, 8)  # a requested thread finds its core
    assert timer_of(tmp_path, "fast", seen=seen, threads=1).clock == "wall"
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert timer_of(tmp_path, "fast", threads=None).threads == 3
    assert timer_of(tmp_path, "fast", threads=2).threads == 2


@pytest.mark.usefixtures("fake")
def test_a_batch_that_takes_longer_than_a_larger_one_is_doubted(tmp_path: Path) -> None:
    timings = run(tmp_path, "inverted", "fast")
    assert timings["inverted"].speeds[1].doubt == "a batch of 1 took longer than one of 4"
    assert not timings["inverted"].speeds[4].doubt
    ratio = paired_ratio(timings["inverted"].speeds[1], timings["fast"].speeds[1])
    assert not ratio.known


@pytest.mark.usefixtures("fake")
def test_timing_ends_within_its_limit_and_keeps_what_it_has(tmp_path: Path) -> None:
    seen: list[Event] = []
    t0 = time.monotonic()
    timer = timer_of(tmp_path, "fast", "endless", seen=seen, limit_s=6.0)
    assert time.monotonic() - t0 < 12
    assert timer.timings()[0].speeds[1].calls
    t0 = time.monotonic()
    (silent,) = timer_of(tmp_path, "silent", seen=seen, limit_s=2.0).timings()
    assert time.monotonic() - t0 < 8
    assert silent.error is not None
    assert "the 2 s for timing were over (--time-limit)" in silent.error
    assert any(isinstance(e, Warned) and "cut short after 2 s" in e.message for e in seen)


@pytest.mark.parametrize(
    ("rounds", "doubt"),
    [(([4.0],), "one round"), (([4.0], [4.0], [40.0]), "more than 5 times"), (([4.0], [5.0]), "")],
)
def test_a_ratio_carries_its_doubt(rounds: tuple[list[float], ...], doubt: str) -> None:
    ratio = paired_ratio(speed_of(1, rounds), speed_of(1, [[1.0]] * 3))
    assert doubt in ratio.doubt
    assert ratio.known == (not doubt)
    assert ratio.to_dict()["doubt"] == (ratio.doubt or None)


@pytest.mark.usefixtures("fake")
def test_no_worker_outlives_the_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker] = []
    start = Worker.__init__

    def recording(self: Worker, *args: object) -> None:
        start(self, *args)  # type: ignore[arg-type]
        started.append(self)

    monkeypatch.setattr(Worker, "__init__", recording)
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if isinstance(event, EvalProgress) and event.split == "timing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        time_models(
            [RunSpec(tmp_path / "fast"), RunSpec(tmp_path / "slow")],
            (np.zeros((1, 2), dtype=np.float32),),
            (1,),
            threads=1,
            emit=stop,
        )
    assert len(started) == 2
    assert all(worker._process.poll() is not None for worker in started)


def test_percentiles_are_of_all_calls_and_throughput_is_at_the_median() -> None:
    speed = speed_of(8, [[1.0, 2.0, 3.0], [4.0, 100.0]])
    assert (speed.calls, speed.p50_ms, speed.rounds) == (5, 3.0, (2.0, 52.0))
    assert speed.p95_ms == pytest.approx(np.percentile([1, 2, 3, 4, 100], 95))
    assert speed.throughput == pytest.approx(8000 / 3)


def test_ratios_are_paired_by_round() -> None:
    before, after = speed_of(1, [[4.0], [8.0], [6.0]]), speed_of(1, [[2.0], [2.0], [6.0]])
    ratio = paired_ratio(before, after)
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 1.0, 4.0)


numbers = st.floats(-10, 10, width=16)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8))
def test_the_pareto_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    assert any(front)
    for (value, cost), on_front in zip(points, front, strict=True):
        dominated = any(v >= value and c <= cost and (v, c) != (value, cost) for v, c in points)
        assert on_front != dominated


def test_rows_without_a_measurement_are_on_no_front() -> None:
    assert pareto_front([None, (float("nan"), 1.0), (0.5, 2.0), (0.5, 2.0), (0.4, 3.0)]) == [
        False, False, True, True, False,
    ]  # fmt: skip
