"""Signals to commands that are no training: they end with the signal's code and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dlcli.cli import main
from dlcli.files import atomic_file, atomic_folder
from dlcli.signals import SignalRaiser, Terminated, raising_signals

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
    with raising_signals():
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_signals_that_are_ignored_or_handled_stay_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        with raising_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


KILL = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"


@pytest.fixture
def write_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Modules to import, by name; they are forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(**sources: str) -> None:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.setitem(sys.modules, name, None)
            del sys.modules[name]

    return write


def test_a_signal_in_an_import_passes_code_that_catches_everything(
    write_modules: Callable[..., None],
) -> None:
    catching = "try:\n    import interrupted_b\nexcept BaseException:\n    pass\nimport interrupted_c\n"
    write_modules(interrupted_a=KILL + catching, interrupted_b="", interrupted_c="")
    with raising_signals() as signals, pytest.raises(Terminated):
        import interrupted_a  # noqa: F401
    assert signals.signum == signal.SIGTERM
    assert signals not in sys.meta_path


@pytest.mark.parametrize("rest", ["", "import time\nwhile True:\n    time.sleep(0.01)\n"])
def test_a_signal_in_an_import_is_raised_after_it_or_after_a_while(
    rest: str, write_modules: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SignalRaiser, "PATIENCE_S", 0.1)
    write_modules(interrupted_last=KILL + rest)
    with raising_signals(), pytest.raises(Terminated):  # noqa: PT012
        import interrupted_last  # noqa: F401

        time.sleep(10)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("module", ["typer", "dlcli.commands.train"])
def test_a_signal_in_the_first_imports_ends_with_one_line(name: str, code: int, module: str) -> None:
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            os.kill(os.getpid(), signal.{name})\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from dlcli.__main__ import main\n"
        "sys.argv = ['dlcli', 'train', '--help']\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "error: interrupted\n")
