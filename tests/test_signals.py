"""Signals to commands that are no training: they end with the signal's code and leave nothing behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dlcli.cli import main
from dlcli.files import atomic_file, atomic_folder
from dlcli.signals import Terminated, raising_terminated

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_command_that_a_signal_ends_leaves_no_temporary_files(
    name: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    signum = getattr(signal, name)

    def interrupted(root: Path) -> None:
        with atomic_file(tmp_path / "file") as file, atomic_folder(tmp_path / "folder") as folder:
            file.write_text("half")
            (folder / "half").touch()
            os.kill(os.getpid(), signum)

    monkeypatch.setattr("dlcli.evaluation.run_summaries.summaries", interrupted)
    # Where the tests run in the background of a shell, SIGINT is ignored.
    own = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(signum, own)
    try:
        assert main(["runs", "--runs-dir", str(tmp_path)]) == code
        assert signal.getsignal(signum) is own
    finally:
        signal.signal(signum, before)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_second_signal_ends_the_process() -> None:
    with raising_terminated():
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_signals_that_are_ignored_or_handled_stay_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        with raising_terminated():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
