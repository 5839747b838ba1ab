"""``dlcli train`` in several processes: the same numbers, and what happens when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from dlcli.cli import main
from dlcli.formats.checkpoint import read_tensors
from dlcli.runs.folder import RunFolder, read_events
from dlcli.training.distributed import launch, worker
from dlcli.training.distributed.signal_relay import SignalRelay

# A model that, in one rank, at one training step, and once, does what its arguments say.
MODEL = """
import json, os, signal, time
from pathlib import Path
import torch
from torch import nn
from dlcli.errors import DlcliError

class Net(nn.Module):
    def __init__(self, task, rank=-1, step=0, wish="", once="", pause=0.0, validating=""):
        super().__init__()
        self.body = nn.Linear(64, 16)
        self.head = nn.Linear(16, task.num_outputs)
        self.fault = (rank, step, wish, once, pause)
        self.validating = validating  # each batch of an evaluation is slow, and a line in this file
        self.steps = 0

    def forward(self, x):
        rank, step, wish, once, pause = self.fault
        if self.validating and not self.training and len(x) > 64:
            with open(self.validating, "a") as file:
                print(os.environ["RANK"], file=file)
            time.sleep(2)
        if self.training:
            self.steps += 1
            time.sleep(pause)
            here = os.environ.get("RANK") == str(rank) and self.steps == step
            if here and wish and not (once and Path(once).exists()):
                if once:
                    Path(once).touch()
                if wish == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if wish == "hang":
                    time.sleep(10_000)
                if wish == "error":
                    raise DlcliError("rank 1 does not like it", hint="ask it nicely")
                if wish == "defect":
                    raise KeyError("nothing there")
            if wish == "memory" and os.environ.get("RANK") == str(rank) and len(x) > step:
                raise torch.OutOfMemoryError(f"CUDA out of memory: no room for {len(x)} samples")
        return self.head(torch.tanh(self.body(x.flatten(1))))
"""
COMMON = ("--data", "digits", "--device", "cpu", "-b", "64", "--set", "fit.log_every=0", "--quiet")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    return tmp_path


def start(*args: str, **env: str) -> subprocess.Popen[str]:
    """``dlcli`` with these arguments, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "dlcli", *args],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0, timeout_s: float = 240) -> tuple[str, str]:
    """stdout and stderr, once it ended with this exit code."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def train(*args: str, code: int = 0, **env: str) -> tuple[str, str]:
    return finish(start("train", *COMMON, *args, **env), code)


def net(**args: Any) -> list[str]:
    """The options of the model above."""
    return [
        "--model",
        "net.py:Net",
        *(x for k, v in args.items() for x in ("--set", f"model.args.{k}={v}")),
    ]


def losses(run: str) -> list[float]:
    events = read_events(RunFolder(Path("runs") / run).metrics)
    return [event["loss"] for event in events if event["event"] == "StepDone"]


def worlds(run: str) -> list[int]:
    """How many processes trained it, at each of its starts."""
    events = read_events(RunFolder(Path("runs") / run).metrics)
    return [event["world_size"] for event in events if event["event"] == "RunStarted"]


def weights(run: str) -> dict[str, Any]:
    """The final weights, from the newest state."""
    folders = (Path("runs") / run / "state").glob("step-*")
    newest = max(folders, key=lambda p: p.stat().st_mtime)
    tensors, _ = read_tensors(newest / "tensors.safetensors")
    return {name: tensor.tolist() for name, tensor in tensors.items() if name.startswith("model/")}


def wait_for(what: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def has_state(run: str) -> bool:
    return any((Path("runs") / run / "state").glob("step-*/manifest.json"))


def ranks_of(run: str) -> list[psutil.Process]:
    """The running ranks that train this run, in whatever process tree."""
    path = (Path("runs") / run).resolve()
    ranks = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line, where = process.info["cmdline"] or [], Path(process.info["cwd"] or "/")
        named = any((where / part).resolve() == path for part in line if part.endswith(run))
        if named and any("train_session.worker" in part for part in line):
            ranks.append(process)
    return ranks


@pytest.mark.parametrize("model", [pytest.param("mlp", marks=pytest.mark.slow), "cnn"])
def test_two_processes_learn_what_one_learns(here: Path, model: str) -> None:
    # Not Adam: it divides by the size of gradients, so that rounding grows where those are nearly 0.
    same = ("--model", model, "--set", "model.args.dropout=0", "-e", "3")
    same += ("--optimizer", "nesterov", "--lr", "0.02")
    assert main(["train", *COMMON, *same, "--name", "one"]) == 0
    out, _ = train(*same, "--name", "two", "--devices", "2", "--json")
    one, two = losses("one"), losses("two")
    assert len(one) == len(two) > 50
    assert max(abs(a - b) for a, b in zip(one[:50], two[:50], strict=True)) < 1e-5
    assert json.loads(out)["status"] == "finished"
    assert json.loads(out)["metrics"]["val"]["accuracy"] > 0.8


@pytest.mark.slow
def test_two_processes_train_the_factors_that_one_trains(here: Path) -> None:
    same = ("--model", "cnn", "--lora", "2", "--set", "model.args.dropout=0", "-e", "1")
    same += ("--optimizer", "nesterov", "--lr", "0.02")
    for name, devices in (("one", "1"), ("two", "2")):
        train(*same, "--name", name, "--devices", devices)
    one, two = losses("one"), losses("two")
    assert len(one) == len(two) > 20
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5
    ours, theirs = weights("one"), weights("two")
    assert any("lora_B" in name for name in ours)
    for name, values in ours.items():
        frozen = name.startswith("model/features") and "lora_" not in name
        tolerance = 0.0 if frozen else 1e-4
        assert np.allclose(theirs[name], values, rtol=0, atol=tolerance), name


@pytest.mark.slow
def test_three_processes_count_every_sample_once(here: Path) -> None:
    same = ("--model", "mlp", "--set", "model.args.dropout=0", "-e", "2", "--json")
    one, _ = train(*same, "--name", "one")
    three, _ = train(*same, "--name", "three", "--devices", "3")  # 179 validation samples: a prime
    ours, theirs = (json.loads(out)["metrics"]["val"] for out in (one, three))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert theirs[name] == pytest.approx(value, abs=1e-5), name


def test_the_users_error_in_one_process_ends_the_run_without_another_try(here: Path) -> None:
    faulty = net(rank=1, step=3, wish="error")
    _, err = train(*faulty, "--name", "a", "--devices", "2", code=1)
    assert "error: rank 1 does not like it" in err
    assert "hint: ask it nicely" in err
    assert "Traceback" not in err
    starts = {path.name.split(".")[1] for path in Path("runs/a/logs").glob("rank-1.*.log")}
    assert starts <= {"0", "1"}  # the second start finds the error and leaves


@pytest.mark.slow
def test_the_users_error_keeps_its_hint_where_nobody_tries_again(here: Path) -> None:
    faulty = net(rank=1, step=3, wish="error")
    _, err = train(*faulty, "--name", "a", "--devices", "2", "--max-restarts", "0", code=1)
    assert "error: rank 1 does not like it\n\nhint: ask it nicely\n" in err


@pytest.mark.slow
def test_a_run_goes_by_the_name_that_it_was_given(here: Path) -> None:
    more = ("-e", "1", "--devices", "2", "--json")
    for root in (here / "my runs", Path("my runs")):
        out, _ = train(*net(), *more, "--runs-dir", str(root), "--name", "a")
        path = Path(json.loads(out)["run"])
        assert path.parent == root
        assert path.is_dir()


@pytest.mark.parametrize(
    ("state", "message"), [(True, "is the one saved before"), (False, "no state is")]
)
def test_an_interrupted_launch_says_what_is_saved(tmp_path: Path, state: bool, message: str) -> None:
    run = RunFolder(tmp_path)
    if state:
        (run.state / "step-7").mkdir(parents=True)
    relay = SignalRelay(run, [])
    relay.signum = signal.SIGTERM
    error = launch._interrupted(run, "", relay, "dlcli train --resume a")
    assert message in error.message
    assert (error.exit_code, error.hint) == (143, "resume with: dlcli train --resume a")


def test_what_the_system_refuses_a_rank_is_not_tried_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    refused = worker._failure(OSError(28, "No space left on device", "a/b"), 0)
    assert refused is not None
    assert (refused.kind, refused.message) == ("error", "a/b: No space left on device")
    assert worker._should_report(run, OSError(), refused, 0)
    assert worker._failure(OSError("cannot identify image file"), 0) is None


def test_no_process_outlives_its_launcher(here: Path) -> None:
    # The trial of --amp auto would take half a minute of a model that sleeps.
    more = ("-e", "1000", "--name", "a", "--devices", "2", "--amp", "none")
    launcher = start("train", *COMMON, *net(pause=0.05), *more)
    wait_for(lambda: Path("runs/a/metrics.jsonl").exists() and len(losses("a")) > 3)
    ranks = ranks_of("a")
    assert len(ranks) == 2
    launcher.kill()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive
    finish(launcher, -signal.SIGKILL)
    size = Path("runs/a/metrics.jsonl").stat().st_size
    time.sleep(0.3)
    assert Path("runs/a/metrics.jsonl").stat().st_size == size
    assert ranks_of("a") == []


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_starts_again_and_ends_at_the_same_weights(here: Path, killed: int) -> None:
    more = ("-e", "2", "--devices", "2", "--checkpoint-every", "5")
    train(*net(), *more, "--name", "whole")
    once = here / "killed"
    train(*net(rank=killed, step=13, wish="kill", once=once), *more, "--name", "torn")
    assert once.exists()
    assert weights("torn") == weights("whole")
    assert losses("torn") == losses("whole")


@pytest.mark.slow
def test_a_process_without_memory_starts_the_group_again_with_smaller_micro_batches(here: Path) -> None:
    more = ("-e", "1", "--devices", "2")
    train(*net(), *more, "--name", "whole")
    _, err = train(*net(rank=1, step=10, wish="memory"), *more, "--name", "small")
    assert "restarted: " in err
    record = json.loads(RunFolder(Path("runs/small")).record.read_text())
    assert record["micro_batch"] == 8  # of a share of 32
    assert losses("small") == pytest.approx(losses("whole"), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_launcher_saves_and_the_run_goes_on(
    here: Path, signum: signal.Signals, code: int
) -> None:
    more = ("-e", "2", "--devices", "2")
    train(*net(), *more, "--name", "whole")
    process = start("train", *COMMON, *net(pause=0.05), *more, "--name", "a")
    wait_for(lambda: Path("runs/a/metrics.jsonl").exists() and len(losses("a")) > 3)
    process.send_signal(signum)
    _, err = finish(process, code)
    assert "interrupted at step" in err
    assert "dlcli train --resume a" in err
    assert ranks_of("a") == []
    assert has_state("a")
    finish(start("train", "--resume", "a", "--quiet"))
    assert weights("a") == weights("whole")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_signal_ends_a_validation_in_all_processes(here: Path) -> None:
    more = ("-e", "1", "--devices", "2", "--set", "data.val_fraction=0.8")  # 1,437 samples: 6 batches
    process = start("train", *COMMON, *net(validating="batches"), *more, "--name", "a")
    wait_for(lambda: Path("batches").exists() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, err = finish(process, 143)
    batches = Path("batches").read_text().split()
    assert max(batches.count(rank) for rank in ("0", "1")) < 3
    assert "interrupted at step 3" in err  # the last of the epoch
    assert has_state("a")


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once(here: Path) -> None:
    faulty = net(rank=1, step=3, wish="hang")
    process = start("train", *COMMON, *faulty, "-e", "2", "--devices", "2", "--name", "a")
    wait_for(lambda: Path("runs/a/metrics.jsonl").exists() and len(losses("a")) > 0)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # it waits for the ranks, which wait for the one that hangs
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 130, timeout_s=10)
    assert "left at once" in err
    assert ranks_of("a") == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("hangs", "signum", "code"), [(0, signal.SIGTERM, 143), (1, signal.SIGINT, 130)]
)
def test_a_signal_ends_a_group_in_which_a_process_hangs(
    here: Path, hangs: int, signum: signal.Signals, code: int
) -> None:
    more = ("-e", "2", "--devices", "2", "--checkpoint-every", "5")
    train(*net(), *more, "--name", "whole")
    once = here / "hung"
    process = start(
        "train", *COMMON, *net(rank=hangs, step=13, wish="hang", once=once), *more, "--name", "a"
    )
    wait_for(once.exists)
    process.send_signal(signum)
    _, err = finish(process, code, timeout_s=45)  # a third of it is for a busy machine
    assert f"interrupted, rank {hangs} (process " in err
    assert "has not answered for 22 s; of run a the last state is the one saved before" in err
    assert err.count(" (process ") == 1
    assert "Traceback" not in err
    assert ranks_of("a") == []
    finish(start("train", "--resume", "a", "--quiet"))
    assert weights("a") == weights("whole")


@pytest.mark.slow
def test_a_process_that_hangs_is_named(here: Path) -> None:
    faulty = net(rank=1, step=5, wish="hang")
    launch = ("--devices", "2", "--max-restarts", "0", "--set", "launch.timeout_s=15")
    _, err = train(*faulty, *launch, "--name", "a", code=1)
    assert f"rank 1 ({socket.gethostname()}, process " in err
    assert "has not answered for 15 s" in err
    stacks = (Path("runs/a/logs") / "rank-1.0.log").read_text()
    assert "net.py" in stacks  # where it hangs


@pytest.mark.skipif(os.name == "nt", reason="needs SIGSTOP")
@pytest.mark.parametrize(
    ("stopped", "interrupt"),
    [
        (0, False),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(0, True, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_process_is_killed_and_named(here: Path, stopped: int, interrupt: bool) -> None:
    more = ("-e", "1000", "--devices", "2", "--max-restarts", "0")
    process = start("train", *COMMON, *net(pause=0.05), *more, "--name", "a")
    wait_for(lambda: Path("runs/a/metrics.jsonl").exists() and len(losses("a")) > 3)
    (rank,) = [r for r in ranks_of("a") if r.environ()["RANK"] == str(stopped)]
    rank.suspend()
    if interrupt:
        process.send_signal(signal.SIGINT)
    _, err = finish(process, 130 if interrupt else 1, timeout_s=40)  # half of it is for a busy machine
    assert ranks_of("a") == []
    if not interrupt:
        assert f"rank {stopped} (process {rank.pid}) has not answered for 8 s" in err
        assert "resume" in err


@pytest.mark.slow
def test_a_defect_in_a_process_is_reported_with_its_last_line(here: Path) -> None:
    faulty = net(rank=1, step=3, wish="defect")
    _, err = train(*faulty, "--devices", "2", "--max-restarts", "0", "--name", "a", code=70)
    assert "KeyError: 'nothing there'" in err
    assert "Traceback" in (Path("runs/a/logs") / "rank-1.0.log").read_text()


@pytest.mark.slow
def test_a_run_that_is_being_written_is_not_resumed(here: Path) -> None:
    first = start("train", *COMMON, *net(pause=0.05), "-e", "1000", "--name", "a", "--devices", "2")
    try:
        wait_for(lambda: Path("runs/a/metrics.jsonl").exists() and len(losses("a")) > 3)
        for devices in ("1", "2"):
            _, err = finish(start("train", "--resume", "a", "--devices", devices), 1)
            assert "run a is being written by process" in err
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGTERM)
        finish(first, 143)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.slow
def test_processes_that_somebody_else_started_train_one_run(here: Path) -> None:
    same = ("--model", "mlp", "--set", "model.args.dropout=0", "-e", "1")
    train(*same, "--name", "one")
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    group |= {"MASTER_PORT": str(free_port())}
    both = [
        start("train", *COMMON, *same, "--name", "two", **group, RANK=rank, LOCAL_RANK=rank)
        for rank in "01"
    ]
    for process in both:
        finish(process)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["one", "two"]
    assert max(abs(a - b) for a, b in zip(losses("one"), losses("two"), strict=True)) < 1e-5


@pytest.mark.slow
def test_two_machines_train_one_run_and_one_comes_back(here: Path) -> None:
    more = ("-e", "3", "--checkpoint-every", "5")
    train(*net(), *more, "--devices", "2", "--name", "whole")
    meet = ("--nnodes", "2", "--rdzv-endpoint", f"localhost:{free_port()}", "--name", "a")
    command = ("train", *COMMON, *net(pause=0.1), *more, *meet)
    first = start(*command)
    wait_for(lambda: Path("runs/a/run.json").exists())  # so that the first one hosts the meeting
    second = start(*command)
    wait_for(lambda: has_state("a"))
    second.kill()
    second.communicate()
    time.sleep(1)
    assert first.poll() is None
    again = start(*command)
    finish(again)
    finish(first)
    assert [path.name for path in Path("runs").glob("a*")] == ["a"]
    assert RunFolder(Path("runs/a")).read_record()["status"] == "finished"
    assert weights("a") == weights("whole")


@pytest.mark.slow
def test_an_elastic_run_goes_on_with_the_machines_that_are_left(here: Path) -> None:
    meet = ("--nnodes", "1:2", "--rdzv-endpoint", f"localhost:{free_port()}", "--name", "a")
    command = ("train", *COMMON, *net(pause=0.1), "-e", "6", "--checkpoint-every", "5", *meet)
    first = start(*command)
    wait_for(lambda: Path("runs/a/run.json").exists())
    second = start(*command)
    wait_for(lambda: has_state("a"))
    assert worlds("a")[-1] == 2
    second.kill()
    second.communicate()
    finish(first)
    assert worlds("a")[-1] == 1
    assert RunFolder(Path("runs/a")).read_record()["status"] == "finished"


@pytest.mark.slow
def test_a_run_of_that_name_with_other_settings_is_not_joined(here: Path) -> None:
    assert main(["train", *COMMON, "--model", "mlp", "-e", "1", "--name", "a"]) == 0
    meet = ("--nnodes", "2", "--rdzv-endpoint", "localhost:29950", "--name", "a")
    _, err = train("--model", "mlp", "-e", "2", *meet, code=2)
    assert "exists already and was started with other settings" in err
