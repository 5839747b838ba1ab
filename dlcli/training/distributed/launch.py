"""The launcher: it starts the ranks of a run through torchelastic and says how they ended.

torchelastic (`torch.distributed.launcher`, the engine of torchrun) starts, watches and restarts the
processes and lets several machines meet. What it logs goes to logs/launcher.log of the run.
"""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig as ElasticConfig
from torch.distributed.launcher.api import elastic_launch

from dlcli.config import LaunchConfig
from dlcli.errors import EXIT_DEFECT, DlcliError, Interrupted
from dlcli.runs.folder import RunFolder
from dlcli.runs.locks import hold, holder
from dlcli.subprocesses import child_command
from dlcli.training.distributed.failures import Failure, failure_since, mark
from dlcli.training.distributed.parent_death import EXIT_BUSY, EXIT_LOST, FOUND, LAUNCHER, LOG
from dlcli.training.distributed.ranks import Ranks, machines
from dlcli.training.loop.interrupt import SIGNALS
from dlcli.wording import first_line

# Its ``main(argv)`` is a rank; a module of the commands, which this room does not import.
RANK_MODULE = "dlcli.commands.train_session.worker"


def launch(
    run: RunFolder, config: LaunchConfig, ranks: Ranks, *, resume: str, flags: tuple[str, ...] = ()
) -> None:
    """Train a run in ``ranks`` processes here, together with those of other machines; wait for the end.

    Rank 0 tells the user what happens and how the run ended, on this process's stdout and stderr.
    ``flags`` go to `dlcli.commands.train_session.worker`; ``resume`` is the command to resume the run.

    Raises: the DlcliError that a rank failed with; Interrupted after a signal, when the ranks have
    saved; DlcliError when they died more often than ``max_restarts`` or the machines did not meet.
    """
    least, most = machines(config)
    several = most > 1
    if not several:
        with hold(run.path):
            pass  # a run that somebody writes is refused here, not in a rank
    found = mark(run.path)
    host = (config.rdzv_endpoint or "localhost:0").rpartition(":")[0]
    elastic = ElasticConfig(
        min_nodes=least,
        max_nodes=most,
        nproc_per_node=ranks.count,
        run_id=f"dlcli-{run.name}",
        rdzv_backend="c10d",
        rdzv_endpoint=config.rdzv_endpoint if several and config.rdzv_endpoint else "localhost:0",
        rdzv_configs={"join_timeout": math.ceil(config.timeout_s), "last_call_timeout": 10},
        max_restarts=config.max_restarts,
        local_addr=host if host in ("localhost", "127.0.0.1") else None,
        logs_specs=_RankLogs(run.path / "logs", found),
        signals_to_handle="SIGURG",  # none that anybody sends: `_Stop` handles those
    )
    command = child_command(RANK_MODULE, str(run.path), *flags)
    stop = _Stop()
    try:
        with _environment(), _quiet_loggers(run.path / "logs" / "launcher.log"), stop:
            elastic_launch(elastic, command[0])(*command[1:])
    except (SignalException, KeyboardInterrupt) as exc:
        assert stop.signum is not None
        raise _interrupted(run, found, stop, resume) from exc
    except ChildFailedError as exc:
        raise _died(run, found, exc, config, resume) from exc
    except RendezvousError as exc:
        failure = _for_good(run, found)
        raise failure.error() if failure else _not_met(config, exc) from exc
    failure = _for_good(run, found)
    if failure is not None:
        raise failure.error()
    _drop_empty_logs(run.path / "logs")


def _drop_empty_logs(folder: Path) -> None:
    for log in folder.glob("*.log"):
        if log.stat().st_size == 0:
            log.unlink(missing_ok=True)
    with suppress(OSError):  # it is not empty
        folder.rmdir()


class _RankLogs(LogsSpecs):
    """Rank 0 writes to the terminal; the others' stderr goes to a file for each start of the group."""

    def __init__(self, folder: Path, found: str) -> None:
        super().__init__(str(folder))
        self.folder = folder
        self.found = found
        self.start = 0

    @property
    def root_log_dir(self) -> str:
        return str(self.folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        self.folder.mkdir(parents=True, exist_ok=True)
        out: dict[int, str] = {}
        err: dict[int, str] = {}
        for local_rank, env in envs.items():
            log = str(self.folder / f"rank-{env['RANK']}.{self.start}.log")
            Path(log).unlink(missing_ok=True)
            env |= {LAUNCHER: str(os.getpid()), FOUND: self.found, LOG: log}
            env["TORCH_CPP_LOG_LEVEL"] = os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")
            main = env["RANK"] == "0"
            out[local_rank], err[local_rank] = ("", "") if main else (os.devnull, log)
        self.start += 1
        return LogsDest(stdouts=out, stderrs=err, error_files=dict.fromkeys(envs, os.devnull))


class _Stop:
    """Context in which the first signal asks the ranks to save and leave; the second kills them.

    torchelastic's own handler gives them 30 seconds before it kills, and up to torch 2.11 no other
    number; so the waiting is done here, before torchelastic is told.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.twice = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for name in SIGNALS:
            signum = getattr(signal, name, None)
            if signum is not None:
                self._before[signum] = signal.signal(signum, self._handle)

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        ranks = _ranks()
        if self.signum is not None:
            self.twice = True
            for rank in ranks:
                _send(rank, None)
            raise KeyboardInterrupt
        self.signum = signum
        for rank in ranks:
            _send(rank, signum)
        psutil.wait_procs(ranks)
        raise SignalException("asked to stop", signal.Signals(signum))


def _ranks() -> list[psutil.Process]:
    """The running ranks of this launcher."""
    found = []
    for child in psutil.Process().children():
        try:
            if RANK_MODULE in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def _send(rank: psutil.Process, signum: int | None) -> None:
    """A signal, or an end; Windows passes Ctrl-C on by itself."""
    try:
        if signum is None:
            rank.kill()
        elif os.name != "nt":
            rank.send_signal(signum)
    except psutil.NoSuchProcess:
        pass


def _for_good(run: RunFolder, found: str) -> Failure | None:
    """A failure of this launch that nobody is to try again."""
    failure = failure_since(run.path, found)
    return failure if failure is not None and failure.kind == "error" else None


def _interrupted(run: RunFolder, found: str, stop: _Stop, resume: str) -> DlcliError:
    assert stop.signum is not None
    failure = failure_since(run.path, found)
    if failure is not None and failure.kind == "interrupted" and not stop.twice:
        return Interrupted(failure.message, signum=stop.signum, hint=failure.hint)
    what = "left at once" if stop.twice else "interrupted"
    saved = any(run.state.glob("step-*"))
    left = "the last state is the one saved before" if saved else "no state is saved yet"
    return Interrupted(
        f"{what}; of run {run.name} {left}",
        signum=stop.signum,
        hint=f"go on with: {resume}",
    )


def _died(
    run: RunFolder, found: str, exc: ChildFailedError, config: LaunchConfig, resume: str
) -> DlcliError:
    """Why the ranks were not started again."""
    # Those that lost a peer are not the cause, nor those that torchelastic ended after it.
    causes = {
        rank: failure
        for rank, failure in exc.failures.items()
        if failure.exitcode not in (EXIT_LOST, -signal.SIGTERM)
    }
    if any(failure.exitcode == EXIT_BUSY for failure in causes.values()):
        return DlcliError(
            f"run {run.name} is being written by {holder(run.path) or 'another process'}",
            hint="wait for it or stop it, then use --resume; or train another run with --name",
        )
    told = failure_since(run.path, found)
    if told is not None and told.kind == "error":
        return told.error()
    times = config.max_restarts + 1
    often = f", {times} times in all" if config.max_restarts else ""
    hint = f"the ranks' last words are in {run.path / 'logs'}; go on with: {resume}"
    if told is not None and (not causes or told.kind == "memory"):
        return DlcliError(told.message + often, hint=hint)
    rank, failure = next(iter((causes or exc.failures).items()))
    ending = _ending(failure)
    if failure.exitcode == EXIT_DEFECT:
        ending = f"failed with {_last_line(run, rank) or ending}"
    error = DlcliError(f"rank {rank} (process {failure.pid}) {ending}{often}", hint=hint)
    if failure.exitcode == EXIT_DEFECT:
        error.exit_code = EXIT_DEFECT
    return error


def _last_line(run: RunFolder, rank: int) -> str:
    """The end of a traceback: the last line of the newest log of a rank."""
    logs = sorted((run.path / "logs").glob(f"rank-{rank}.*.log"), key=lambda p: p.stat().st_mtime)
    lines = logs[-1].read_text(encoding="utf-8", errors="replace").split("\n") if logs else []
    return next((line for line in reversed(lines) if line.strip()), "")


def _ending(failure: ProcessFailure) -> str:
    if failure.exitcode < 0:
        known = {int(signum): signum.name for signum in signal.Signals}
        name = known.get(-failure.exitcode, f"signal {-failure.exitcode}")
        why = ", most often for lack of memory" if name == "SIGKILL" else ""
        return f"was ended by {name}{why}"
    return f"failed with exit code {failure.exitcode}"


def _not_met(config: LaunchConfig, exc: RendezvousError) -> DlcliError:
    where = config.rdzv_endpoint or "this machine"
    reason = first_line(exc)
    return DlcliError(
        f"the machines ({config.nnodes}) did not meet at {where} within {config.timeout_s:g} s: "
        f"{reason}",
        hint="run the same command on each; the machine of the endpoint must run too and be reachable. "
        "The state is saved: the same commands go on with the run",
    )


@contextmanager
def _environment() -> Iterator[None]:
    """Each start of the group gets a store of its own, in rank 0.

    With torchelastic's shared one, a group that starts again reads the addresses of the one before it.
    """
    name = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


@contextmanager
def _quiet_loggers(path: Path) -> Iterator[None]:
    """What torchelastic logs goes to a file, not to the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("torch.distributed")
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before, propagated = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagated
        handler.close()
