"""One writer for a run, also when the one before was killed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dlcli.errors import DlcliError
from dlcli.runs import locks
from dlcli.runs.locks import RunBusy, is_locked, lock_holder, run_lock

HOLDER = (
    "import sys, time; from pathlib import Path; from dlcli.runs.locks import run_lock\n"
    "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(float(sys.argv[2]))\n"
)


@contextmanager
def other_process(run: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """One that holds the run, for so long."""
    command = [sys.executable, "-c", HOLDER, str(run), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_writer_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    with (
        other_process(tmp_path, 60) as first,
        pytest.raises(
            RunBusy, match=rf"{tmp_path.name} is being written by process {first.pid} on host"
        ),
        run_lock(tmp_path, grace_s=0.2),
    ):
        pass


def test_a_killed_writer_leaves_the_run_free(tmp_path: Path) -> None:
    with other_process(tmp_path, 60) as first:
        first.kill()
        first.wait()
        with run_lock(tmp_path, grace_s=0):
            pass


def test_a_writer_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    with other_process(tmp_path, 0.5):
        t0 = time.monotonic()
        with run_lock(tmp_path, grace_s=20):
            assert time.monotonic() - t0 < 15


def test_one_process_may_hold_a_run_twice_and_frees_it_once(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        with run_lock(tmp_path / ".", grace_s=0):
            pass
        assert lock_holder(tmp_path).startswith("process ")
        code = HOLDER.replace("sys.argv[1])", "sys.argv[1]), grace_s=0")
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), "0"], capture_output=True, text=True
        )
        assert "RunBusy" in done.stderr
    assert lock_holder(tmp_path) == ""
    with other_process(tmp_path, 0):
        pass


def test_an_error_in_the_block_frees_the_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        _ = 1 / 0
    with other_process(tmp_path, 0):
        pass


def test_a_folder_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match="nowhere"), run_lock(tmp_path / "nowhere"):
        pass


def test_whether_a_run_is_held_is_reported_without_touching_its_folder(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
    with other_process(tmp_path, 60) as first:
        assert is_locked(tmp_path)
        first.kill()
        first.wait()
        assert not is_locked(tmp_path)
        before = (tmp_path / "lock").stat().st_mtime_ns
        assert not is_locked(tmp_path)
        assert (tmp_path / "lock").stat().st_mtime_ns == before
    with run_lock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_the_lock_of_a_folder_that_went_away_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted between opening and locking: two processes would hold locks of different files."""
    run, acquire = tmp_path / "run", locks._acquire
    run.mkdir()

    def after_a_deletion(*args: object) -> object:
        run.rename(tmp_path / "doomed")
        run.mkdir()
        with run_lock_of_new_run():
            return acquire(*args)  # type: ignore[arg-type]

    @contextmanager
    def run_lock_of_new_run() -> Iterator[None]:
        monkeypatch.setattr(locks, "_acquire", acquire)
        with run_lock(run, grace_s=0):
            yield

    monkeypatch.setattr(locks, "_acquire", after_a_deletion)
    with pytest.raises(DlcliError, match="deleted or moved by another process"), run_lock(run):
        pass
    assert not is_locked(run)
