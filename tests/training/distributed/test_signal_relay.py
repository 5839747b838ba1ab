"""The launcher's first signal: ranks that do not end are killed and named, in bounded time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing import SignalException

from dlcli.runs.folder import RunFolder
from dlcli.training.distributed import parent_death, signal_relay
from dlcli.training.distributed.failures import read_failure
from dlcli.training.distributed.signal_relay import SignalRelay

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
CODE = """
import signal, sys, time
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
print(flush=True)
time.sleep(100)
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_relay, "STOP_LIMIT_S", 0.2)
    monkeypatch.setattr(signal_relay, "_END_S", 0.2)


@pytest.fixture
def deaf() -> Iterator[subprocess.Popen[str]]:
    """A rank that does not hear SIGTERM."""
    with started("SIGTERM") as rank:
        yield rank


@contextmanager
def started(*ignored: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CODE, *ignored]
    env = {**os.environ, "RANK": "3"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        rank.stdout.readline()
        yield rank
        rank.kill()


def stop(run: RunFolder, rank: subprocess.Popen[str], relay: SignalRelay | None = None) -> None:
    assert isinstance(rank.args, list)
    with pytest.raises(SignalException):
        (relay or SignalRelay(run, rank.args))._handle(signal.SIGTERM, None)


def alive(rank: subprocess.Popen[str]) -> bool:
    return Path(f"/proc/{rank.pid}").exists() if sys.platform == "linux" else rank.poll() is None


def test_a_rank_that_does_not_end_after_a_signal_is_killed_and_named(
    tmp_path: Path, deaf: subprocess.Popen[str]
) -> None:
    run = RunFolder(tmp_path)
    stop(run, deaf)
    assert not alive(deaf)
    failure = read_failure(run.path)
    assert failure is not None
    assert failure.message == f"rank 3 (process {deaf.pid}) has not answered for 0.2 s"


def test_a_rank_that_ends_is_no_failure(tmp_path: Path) -> None:
    with started() as rank:
        stop(RunFolder(tmp_path), rank)
        assert not alive(rank)
    assert read_failure(tmp_path) is None


def test_a_state_that_is_being_written_is_waited_for(
    tmp_path: Path, deaf: subprocess.Popen[str]
) -> None:
    run = RunFolder(tmp_path)
    (run.state / ".tmp-of-a-rank-that-died").mkdir(parents=True)
    assert isinstance(deaf.args, list)
    relay = SignalRelay(run, deaf.args)
    new = run.state / ".tmp-state"
    new.mkdir()
    ended: list[float] = []

    def write() -> None:
        time.sleep(0.5)
        ended.append(time.monotonic())
        assert alive(deaf)
        new.rmdir()

    writer = threading.Thread(target=write)
    writer.start()
    stop(run, deaf, relay)
    writer.join()
    assert time.monotonic() > ended[0]
    assert not alive(deaf)


@pytest.mark.parametrize(
    ("module", "waits"), [("torch.distributed.distributed_c10d", True), ("net", False)]
)
def test_a_rank_inside_a_collective_waits_for_its_peers(module: str, waits: bool) -> None:
    seen: list[bool] = []

    def look() -> None:
        time.sleep(0.05)
        seen.append(parent_death._waits_for_peers())

    thread = threading.Thread(target=look)
    thread.start()
    exec("sleep(0.2)", {"__name__": module, "sleep": time.sleep})
    thread.join()
    assert seen == [waits]
