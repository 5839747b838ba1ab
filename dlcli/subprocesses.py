"""Child processes: how one is started, how it ended in words, and how it ends with its parent."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time

# The child gets this process's search path, so that it runs the very modules that the command runs; with
# -P and -c the current folder is not on it, and a user's numpy.py there is none of them.
_CODE = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]) or sys.path; "
    "from dlcli.subprocesses import die_with_parent; die_with_parent(int(sys.argv[2])); "
    "importlib.import_module(sys.argv[3]).main(sys.argv[4:])"
)
_SIGNALS = {
    "SIGSEGV": "segmentation fault",
    "SIGBUS": "bus error",
    "SIGABRT": "it aborted itself",
    "SIGFPE": "arithmetic error",
    "SIGILL": "illegal instruction: the build uses instructions that this CPU lacks",
    "SIGKILL": "killed from outside, most often for lack of memory",
}
_WINDOWS_CODES = {
    0xC0000005: "access violation",
    0xC000001D: "illegal instruction: the build uses instructions that this CPU lacks",
    0xC0000409: "it aborted itself",
}
_PR_SET_PDEATHSIG = 1  # sys/prctl.h
_POLL_S = 0.5


def child_command(
    module: str, *args: str, interpreter_options: tuple[str, ...] = (), own_path: bool = False
) -> list[str]:
    """Return the command that calls ``main(args)`` of a module in a fresh interpreter.

    The child ends with this process, however that ends, and on Linux with the thread that starts it.
    With ``own_path`` its search path is that of its interpreter, not that of this process.
    """
    path = json.dumps([] if own_path else [entry for entry in sys.path if isinstance(entry, str)])
    return [
        sys.executable,
        "-P",
        *interpreter_options,
        "-c",
        _CODE,
        path,
        str(os.getpid()),
        module,
        *args,
    ]


def describe_exit(code: int) -> str:
    """Return an exit code in words: ``exit code 3``, ``SIGSEGV (segmentation fault)``."""
    if code in _WINDOWS_CODES:
        return f"0x{code:08X} ({_WINDOWS_CODES[code]})"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    return f"{name} ({_SIGNALS[name]})" if name in _SIGNALS else name


def die_with_parent(parent_pid: int) -> None:
    """Have this process killed when its parent dies, however that dies.

    On Linux the kernel does it; elsewhere a thread watches. Saved states are whole files.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before the kernel was asked
            os._exit(1)
        return

    import psutil  # not imported where it is not needed: a child starts at once

    try:
        parent = psutil.Process(parent_pid)
    except psutil.NoSuchProcess:
        os._exit(1)
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: object) -> None:
    while parent.is_running():  # type: ignore[attr-defined]  # a psutil.Process
        time.sleep(_POLL_S)
    os._exit(1)
