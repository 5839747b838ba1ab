"""A rank: one process of a group, from joining the group to its exit code."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import NoReturn, TextIO

from dlcli.config import LaunchConfig
from dlcli.errors import EXIT_DEFECT, DlcliError, Interrupted, os_error_message
from dlcli.out_of_memory import MEMORY_HINT, out_of_memory_message
from dlcli.runs.folder import RunFolder
from dlcli.runs.locks import RunBusy, run_lock
from dlcli.training.distributed.failures import Failure, clear_failure, read_failure, write_failure
from dlcli.training.distributed.parent_death import (
    EXIT_BUSY,
    EXIT_PEER_LOST,
    EXIT_RESTART,
    LOG_FILE,
    exit_with_group,
)
from dlcli.training.distributed.world import PeerLost, World, find_lost_peers, is_peer_loss, join
from dlcli.training.loop.interrupt import StopGuard
from dlcli.training.loop.step import OutOfMemory

_BUSY_GRACE_S = 10.0  # the rank 0 of the group before a restart may still be ending


@contextmanager
def joined_world(launch: LaunchConfig, device: str) -> Iterator[World]:
    """Context of the world that the environment names; it is left at the end.

    Raises: DlcliError when the processes do not meet; PeerLost, naming them, when others hang or are
    gone.
    """
    StopGuard.patient = True
    world = join(launch, device)
    try:
        yield world
    except RuntimeError as exc:
        if "find_unused_parameters" in str(exc):
            raise DlcliError(
                "the model has parameters that its output does not depend on, which several "
                "processes cannot train",
                hint="freeze them with --freeze, or take them out of the model",
            ) from exc
        if not is_peer_loss(exc):
            raise
        # The launcher ends the ranks that are left; this one first finds out which are missing.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise find_lost_peers(world, exc) from exc
    world.leave()


def run_rank(
    run: RunFolder, launch: LaunchConfig, device: str, work: Callable[[World], None]
) -> NoReturn:
    """Run ``work`` as a rank that `launch` started: join the group, work, exit with a code.

    Rank 0 holds the run's lock. An error of ``work`` goes to failure.json, a defect as a traceback to
    the rank's log.
    """
    rank = int(os.environ["RANK"])
    log = open(os.environ[LOG_FILE], "a", encoding="utf-8") if rank == 0 else sys.stderr  # noqa: SIM115
    faulthandler.enable(log)
    code = 0
    try:
        with run_lock(run.path, grace_s=_BUSY_GRACE_S) if rank == 0 else nullcontext():
            _work(run, launch, device, work, log)
    except RunBusy:
        code = EXIT_BUSY  # another process writes the folder: nothing is written into it
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as exc:
        failure = _failure(exc, rank)
        if failure is None or failure.kind != "interrupted":
            traceback.print_exc(file=log)
        code = EXIT_DEFECT if failure is None else failure.exit_code
        if failure is not None and _should_report(run, exc, failure, rank):
            write_failure(run.path, failure)
    for stream in (sys.stdout, sys.stderr, log):
        with suppress(OSError):  # its reader is gone
            stream.flush()
    os._exit(code)  # process groups whose peers are gone block the interpreter's shutdown


def _work(
    run: RunFolder, launch: LaunchConfig, device: str, work: Callable[[World], None], log: TextIO
) -> None:
    exit_with_group(run.path, log)
    with joined_world(launch, device) as world:
        last = world.broadcast(read_failure(run.path) if world.main else None)
        if last is not None and last.kind in ("lost", "memory"):
            world = replace(world, restarted_after=last.message)
        if world.main:
            clear_failure(run.path)
        work(world)


def _failure(exc: Exception, rank: int) -> Failure | None:
    """Return the failure to report; None for a bug, whose traceback is in the log."""
    if isinstance(exc, OutOfMemory):
        return Failure("memory", f"rank {rank} ran out of memory", None, EXIT_RESTART, rank)
    if isinstance(exc, PeerLost):
        return Failure("lost", exc.message, exc.hint, EXIT_PEER_LOST, rank)
    if isinstance(exc, Interrupted):
        return Failure("interrupted", exc.message, exc.hint, exc.exit_code, rank)
    if isinstance(exc, DlcliError):
        return Failure("error", exc.message, exc.hint, exc.exit_code, rank)
    if (message := out_of_memory_message(exc)) is not None:  # not in a step: it would fail again
        return Failure("error", message, MEMORY_HINT, 1, rank)
    message = os_error_message(exc)  # it would fail again
    return None if message is None else Failure("error", message, None, 1, rank)


def _should_report(run: RunFolder, exc: Exception, failure: Failure, rank: int) -> bool:
    """Whether this process writes failure.json: causes go before effects, one reports for all."""
    if isinstance(exc, PeerLost):
        known = read_failure(run.path)
        return exc.reports and (known is None or known.kind not in ("error", "memory", "lost"))
    return rank == 0 or failure.kind != "interrupted"
