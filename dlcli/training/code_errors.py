"""Errors in the user's own code while a run trains: their line, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dlcli.errors import DlcliError
from dlcli.out_of_memory import is_out_of_memory
from dlcli.training.distributed.world import is_peer_loss
from dlcli.user_code import line_in_user_file
from dlcli.wording import first_line


@contextmanager
def code_errors() -> Iterator[None]:
    """Context in which an error that went through a user's file becomes a DlcliError with its line.

    A model's forward pass, a function of autograd, an optimizer's step: whatever torch calls. Errors
    that mean that memory ran out or another process is gone stay what they are.
    """
    try:
        yield
    except DlcliError:
        raise
    except (Exception, SystemExit) as exc:
        line = "" if is_out_of_memory(exc) or is_peer_loss(exc) else line_in_user_file(exc)
        if not line:
            raise
        raise DlcliError(
            f"your code failed: {type(exc).__name__}: {first_line(exc)}{line}",
            hint="--debug shows where",
        ) from exc
