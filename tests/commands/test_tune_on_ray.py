"""``dlcli tune --engine ray``: a worker on each node that can do the work, and none elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlcli.cli import main
from dlcli.commands.tune_session import on_ray, work
from dlcli.commands.tune_session.on_ray import Job, work_there
from dlcli.tune.study import StudyFolder, read_study
from dlcli.tune.trials import Trials

NEW = ["tune", "-m", "mlp", "-d", "digits", "--device", "cpu", "-e", "3", "--name", "s", "--trials", "3"]
NEW += ["--search", "optim.lr=1e-3|1e-2", "--sampler", "grid", "--pruner", "none"]
ON_RAY = ["--engine", "ray", "--workers", "2"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values() -> list[tuple[Any, ...]]:
    trials = Trials(read_study(StudyFolder(Path("runs/s")))).all()
    return [(trial.number, trial.status, trial.settings, trial.value) for trial in trials]


def test_ray_is_asked_for_with_its_extra(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = work.find_spec
    monkeypatch.setattr(work, "find_spec", lambda name: None if name == "ray" else real(name))
    assert main([*NEW, *ON_RAY]) == 1
    assert 'pip install "dlcli[tune,ray]"' in capsys.readouterr().err
    assert main([*NEW, "--gpus-per-trial", "0.5"]) == 2
    assert "--gpus-per-trial is asked of a Ray cluster" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_node_that_cannot_do_the_work_says_why(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_APPEARS_S", 0.0)
    job = Job(here, here / ".ray-0", (here / "data.csv",), (), 0.0)
    ended = work_there(job)
    assert ended.code == 1
    assert ended.message == f"it does not share the folder {here}"
    job.token.touch()
    assert work_there(job).message == f"it has no {here / 'data.csv'}"
    assert "is installed there, and 0.0.1 here" in work_there(replace(job, version="0.0.1")).message
    # What the process says is passed on: there is no study in the folder.
    ended = work_there(replace(job, needed=()))
    assert ended.code == 1
    assert "study.json" in ended.message


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of this machine: a head, which has no CPU for tasks, and a node with two."""
    pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    size = {"object_store_memory": 80 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **size})
    nodes.first = nodes.add_node(num_cpus=2, **size)
    nodes.more = lambda: nodes.add_node(num_cpus=2, **size)
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    yield nodes
    nodes.shutdown()


def begin(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dlcli", *NEW, *ON_RAY, *options]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_states(count: int) -> None:
    """Wait until trials have saved a state: their processes are in the middle of the work."""
    deadline = time.monotonic() + 300
    while len({path.parent for path in Path("runs/s").glob("trial-*/state/step-*")}) < count:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def finish_and_compare(here: Path) -> None:
    """Finish the study in this process: it is the one that knows no cluster."""
    assert main(["tune", "--resume", "s", "--engine", "local", "--workers", "1", "-q"]) == 0
    on_cluster = values()
    Path("runs/s").rename(here / "on-ray")
    assert main([*NEW, "-q"]) == 0
    assert values() == on_cluster
    assert not list((here / "on-ray").glob(".ray-*"))


@pytest.mark.slow
def test_a_study_on_a_cluster_is_the_study(cluster: Any, here: Path) -> None:
    driver = begin("--json")
    out, err = driver.communicate(timeout=500)
    assert driver.returncode == 0, err
    assert [trial["status"] for trial in json.loads(out)["trials"]] == ["finished"] * 3
    finish_and_compare(here)


@pytest.mark.slow
def test_ctrl_c_saves_the_trials_on_all_nodes(cluster: Any, here: Path) -> None:
    driver = begin("--epochs", "300", "--checkpoint-every", "1")
    wait_for_states(2)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 130, err
    assert "study s keeps all its trials" in err
    trials = Trials(read_study(StudyFolder(Path("runs/s")))).all()
    assert [trial.status for trial in trials] == ["stopped"] * 2
    assert all(json.loads(t.run.record.read_text())["status"] == "interrupted" for t in trials)
    assert not list(Path("runs/s").glob(".ray-*"))


@pytest.mark.slow
def test_the_trials_of_a_lost_node_are_resumed_by_another(cluster: Any, here: Path) -> None:
    driver = begin("--epochs", "30", "--checkpoint-every", "1")
    wait_for_states(2)
    cluster.remove_node(cluster.first, allow_graceful=False)
    cluster.more()
    _, err = driver.communicate(timeout=500)
    assert driver.returncode == 0, err
    assert "a worker was lost, and another goes on" in err
    assert {status for _, status, *_ in values()} == {"finished"}
