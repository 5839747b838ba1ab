"""A rank: one of the processes that train a run together, from its start to its exit code."""

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
from dlcli.errors import EXIT_DEFECT, DlcliError, Interrupted, refusal
from dlcli.runs.folder import RunFolder
from dlcli.runs.locks import RunBusy, hold
from dlcli.training.distributed.failures import Failure, forget, read_failure, write_failure
from dlcli.training.distributed.parent_death import EXIT_AGAIN, EXIT_BUSY, EXIT_LOST, LOG, die_with_group
from dlcli.training.distributed.world import Lost, World, explain, is_lost, join
from dlcli.training.loop.interrupt import StopGuard
from dlcli.training.loop.step import OutOfMemory

_BUSY_GRACE_S = 10.0  # the rank 0 before this one may still be dying


@contextmanager
def membership(launch: LaunchConfig, device: str) -> Iterator[World]:
    """The world that the environment names, left at the end.

    Raises: DlcliError when the processes do not meet; Lost, naming them, when others hang or are gone.
    """
    StopGuard.patient = True
    world = join(launch, device)
    try:
        yield world
    except RuntimeError as exc:
        if "find_unused_parameters" in str(exc):
            raise DlcliError(
                "the model has parameters that its answer does not depend on, which several processes "
                "cannot share",
                hint="freeze them with --freeze, or take them out of the model",
            ) from exc
        if not is_lost(exc):
            raise
        # The launcher ends the ranks that are left; this one first finds out who is missing.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise explain(world, exc) from exc
    world.leave()


def serve(run: RunFolder, launch: LaunchConfig, device: str, work: Callable[[World], None]) -> NoReturn:
    """Be a rank that `launch` started: join, do ``work``, leave with an exit code.

    Rank 0 holds the run's lock. Whatever ends ``work`` goes to failure.json, or, for a defect, to the
    rank's log as a traceback.
    """
    rank = int(os.environ["RANK"])
    log = open(os.environ[LOG], "a", encoding="utf-8") if rank == 0 else sys.stderr  # noqa: SIM115
    faulthandler.enable(log)
    code = 0
    try:
        with hold(run.path, grace_s=_BUSY_GRACE_S) if rank == 0 else nullcontext():
            _work(run, launch, device, work, log)
    except RunBusy:
        code = EXIT_BUSY  # the folder is somebody else's: nothing is written into it
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as exc:
        failure = _failure(exc, rank)
        if failure is None or failure.kind != "interrupted":
            traceback.print_exc(file=log)
        code = EXIT_DEFECT if failure is None else failure.exit_code
        if failure is not None and _is_to_tell(run, exc, failure, rank):
            write_failure(run.path, failure)
    for stream in (sys.stdout, sys.stderr, log):
        with suppress(OSError):  # whoever read it has gone
            stream.flush()
    os._exit(code)  # process groups whose peers are gone hold up the interpreter's end


def _work(
    run: RunFolder, launch: LaunchConfig, device: str, work: Callable[[World], None], log: TextIO
) -> None:
    die_with_group(run.path, log)
    with membership(launch, device) as world:
        last = world.broadcast(read_failure(run.path) if world.main else None)
        if last is not None and last.kind in ("lost", "memory"):
            world = replace(world, restarted_after=last.message)
        if world.main:
            forget(run.path)
        work(world)


def _failure(exc: Exception, rank: int) -> Failure | None:
    """What to leave word of; None for a defect, which the traceback in the log tells."""
    if isinstance(exc, OutOfMemory):
        return Failure("memory", f"rank {rank} ran out of memory", None, EXIT_AGAIN, rank)
    if isinstance(exc, Lost):
        return Failure("lost", exc.message, exc.hint, EXIT_LOST, rank)
    if isinstance(exc, Interrupted):
        return Failure("interrupted", exc.message, exc.hint, exc.exit_code, rank)
    if isinstance(exc, DlcliError):
        return Failure("error", exc.message, exc.hint, exc.exit_code, rank)
    refused = refusal(exc)  # nobody grants it the next time
    return None if refused is None else Failure("error", refused, None, 1, rank)


def _is_to_tell(run: RunFolder, exc: Exception, failure: Failure, rank: int) -> bool:
    """Whether this process writes: a cause goes before its effects, and one tells what all know."""
    if isinstance(exc, Lost):
        told = read_failure(run.path)
        return exc.speaker and (told is None or told.kind not in ("error", "memory"))
    return rank == 0 or failure.kind != "interrupted"
