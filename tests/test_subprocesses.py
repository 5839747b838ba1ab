"""Child processes: they run the parent's own modules, and their ends are told in words."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlcli.subprocesses import child_command, describe_exit

CHILD = "import json, sys\ndef main(argv): print(json.dumps(argv)); sys.exit(3)\n"


def test_a_child_gets_the_search_path_and_nothing_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, here = tmp_path / "modules", tmp_path / "here"
    for folder in (modules, here):
        folder.mkdir()
    (modules / "a_child.py").write_text(CHILD)
    (here / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.syspath_prepend(modules)
    done = subprocess.run(child_command("a_child", "x", "y z"), cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, '["x", "y z"]\n')


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's way")
def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed, so that it can tell its child nothing."""
    (tmp_path / "a_child.py").write_text(
        "import os, time\ndef main(argv): print(os.getpid(), flush=True); time.sleep(60)\n"
    )
    code = (
        "import subprocess, sys; from dlcli.subprocesses import child_command;"
        "sys.path.append(sys.argv[1]); subprocess.run(child_command('a_child'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":  # dead, and not yet collected
            return
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGSEGV") or os.name == "nt", reason="signals have other names")
def test_exits_are_reported_in_words() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-signal.SIGSEGV) == "SIGSEGV (segmentation fault)"
    assert describe_exit(-250) == "signal 250"
    assert describe_exit(0xC0000005).endswith("(access violation)")
