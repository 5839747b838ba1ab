"""The launcher: it starts the ranks of a run through torchelastic and reports how they ended.

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

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig as ElasticConfig
from torch.distributed.launcher.api import elastic_launch

from dlcli.config import LaunchConfig
from dlcli.errors import EXIT_DEFECT, DlcliError, Interrupted
from dlcli.runs.folder import RunFolder
from dlcli.runs.locks import lock_holder, run_lock
from dlcli.subprocesses import describe_exit
from dlcli.training.distributed.failures import Failure, failure_digest, failure_since
from dlcli.training.distributed.parent_death import (
    EXIT_BUSY,
    EXIT_PEER_LOST,
    LOG_FILE,
    OLD_FAILURE,
)
from dlcli.training.distributed.ranks import LocalRanks, machine_range
from dlcli.training.distributed.signal_relay import SignalRelay, rank_processes
from dlcli.training.distributed.stopped_ranks import StoppedRanks
from dlcli.wording import first_line


def launch(
    run: RunFolder, config: LaunchConfig, ranks: LocalRanks, command: list[str], *, resume: str
) -> None:
    """Train a run in ``ranks`` processes here, with those of other machines; wait for the end.

    ``command`` starts a rank: a program that calls `leave_failed_group` and `run_rank`. Rank 0 writes to
    this process's stdout and stderr. ``resume`` is the command to resume the run.

    Raises: the DlcliError that a rank failed with; Interrupted after a signal, when the ranks have
    saved; DlcliError when they died more often than ``max_restarts`` or the machines did not meet.
    """
    minimum, maximum = machine_range(config)
    several = maximum > 1
    if not several:
        with run_lock(run.path):
            pass  # a run that another process writes is refused here, not in a rank
    digest = failure_digest(run.path)
    host = (config.rdzv_endpoint or "localhost:0").rpartition(":")[0]
    elastic = ElasticConfig(
        min_nodes=minimum,
        max_nodes=maximum,
        nproc_per_node=ranks.count,
        run_id=f"dlcli-{run.name}",
        rdzv_backend="c10d",
        rdzv_endpoint=config.rdzv_endpoint if several and config.rdzv_endpoint else "localhost:0",
        rdzv_configs={"join_timeout": math.ceil(config.timeout_s), "last_call_timeout": 10},
        max_restarts=config.max_restarts,
        local_addr=host if host in ("localhost", "127.0.0.1") else None,
        logs_specs=_RankLogs(run.path / "logs", digest),
        signals_to_handle="SIGURG",  # a signal that nobody sends: `SignalRelay` handles the others
    )
    relay = SignalRelay(run, command)
    watch = StoppedRanks(run.path, lambda: rank_processes(command))
    try:
        with _environment(), _quiet_loggers(run.path / "logs" / "launcher.log"), watch, relay:
            elastic_launch(elastic, command[0])(*command[1:])
    except (SignalException, KeyboardInterrupt) as exc:
        assert relay.signum is not None
        raise _interrupted(run, digest, relay, resume) from exc
    except ChildFailedError as exc:
        raise _died(run, digest, exc, config, resume) from exc
    except RendezvousError as exc:
        failure = _final_failure(run, digest)
        raise failure.error() if failure else _not_met(config, exc) from exc
    failure = _final_failure(run, digest)
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

    def __init__(self, folder: Path, digest: str) -> None:
        super().__init__(str(folder))
        self.folder = folder
        self.digest = digest
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
            env |= {OLD_FAILURE: self.digest, LOG_FILE: log}
            env["TORCH_CPP_LOG_LEVEL"] = os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")
            main = env["RANK"] == "0"
            out[local_rank], err[local_rank] = ("", "") if main else (os.devnull, log)
        self.start += 1
        return LogsDest(stdouts=out, stderrs=err, error_files=dict.fromkeys(envs, os.devnull))


def _final_failure(run: RunFolder, digest: str) -> Failure | None:
    """The failure of this launch, where a restart would not help."""
    failure = failure_since(run.path, digest)
    return failure if failure is not None and failure.kind == "error" else None


def _interrupted(run: RunFolder, digest: str, relay: SignalRelay, resume: str) -> DlcliError:
    assert relay.signum is not None
    failure = failure_since(run.path, digest)
    if failure is not None and failure.kind == "interrupted" and not relay.twice:
        return Interrupted(failure.message, signum=relay.signum, hint=failure.hint)
    outcome = "left at once" if relay.twice else "interrupted"
    if failure is not None and failure.kind == "lost":
        outcome += f", {failure.message}"
    saved = any(run.state.glob("step-*"))
    left = "the last state is the one saved before" if saved else "no state is saved yet"
    return Interrupted(
        f"{outcome}; of run {run.name} {left}",
        signum=relay.signum,
        hint=f"resume with: {resume}",
    )


def _died(
    run: RunFolder, digest: str, exc: ChildFailedError, config: LaunchConfig, resume: str
) -> DlcliError:
    """The error of ranks that died and were not restarted."""
    # Ranks that lost a peer are not the cause, nor those that torchelastic ended afterwards.
    causes = {
        rank: failure
        for rank, failure in exc.failures.items()
        if failure.exitcode not in (EXIT_PEER_LOST, -signal.SIGTERM, 128 + signal.SIGTERM)
    }
    if any(failure.exitcode == EXIT_BUSY for failure in causes.values()):
        return DlcliError(
            f"run {run.name} is being written by {lock_holder(run.path) or 'another process'}",
            hint="wait for it or stop it, then use --resume; or train another run with --name",
        )
    reported = failure_since(run.path, digest)
    if reported is not None and reported.kind == "error":
        return reported.error()
    times = config.max_restarts + 1
    often = f", {times} times in all" if config.max_restarts else ""
    hint = f"the logs of the ranks are in {run.path / 'logs'}; resume with: {resume}"
    if reported is not None and (not causes or reported.kind in ("memory", "lost")):
        return DlcliError(reported.message + often, hint=hint)
    rank, failure = next(iter((causes or exc.failures).items()))
    ending = f"ended with {describe_exit(failure.exitcode)}"
    if failure.exitcode == EXIT_DEFECT:
        ending = f"failed with {_last_line(run, rank) or ending}"
    error = DlcliError(f"rank {rank} (process {failure.pid}) {ending}{often}", hint=hint)
    if failure.exitcode == EXIT_DEFECT:
        error.exit_code = EXIT_DEFECT
    return error


def _last_line(run: RunFolder, rank: int) -> str:
    """The last line of the newest log of a rank, where its traceback ends."""
    logs = sorted((run.path / "logs").glob(f"rank-{rank}.*.log"), key=lambda p: p.stat().st_mtime)
    lines = logs[-1].read_text(encoding="utf-8", errors="replace").split("\n") if logs else []
    return next((line for line in reversed(lines) if line.strip()), "")


def _not_met(config: LaunchConfig, exc: RendezvousError) -> DlcliError:
    where = config.rdzv_endpoint or "this machine"
    reason = first_line(exc)
    return DlcliError(
        f"the machines ({config.nnodes}) did not meet at {where} within {config.timeout_s:g} s: "
        f"{reason}",
        hint="run the same command on each; the machine of the endpoint must run too and be reachable. "
        "The state is saved: the same commands resume the run",
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
