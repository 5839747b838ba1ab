"""The entry point of the command line, ``dlcli`` and ``python -m dlcli``: signals before all else."""

import signal
import sys

from dlcli.signals import raising_signals, signum_of


def main() -> int:
    """Run the command line and return the exit code; a signal ends it in its first imports, too."""
    with raising_signals():
        try:
            from dlcli.cli import main as run

            code = run()
        except KeyboardInterrupt as exc:
            sys.stderr.write("error: interrupted\n")
            code = 128 + signum_of(exc)
    # What follows is the end of the interpreter, which would print a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
