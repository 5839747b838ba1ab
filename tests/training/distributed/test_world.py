"""What several processes agree on, and who starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._C._distributed_c10d import HashStore

from dlcli.config import LaunchConfig, TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.files import write_json
from dlcli.runs.folder import RunFolder
from dlcli.training.distributed import failures
from dlcli.training.distributed.external_launcher import external_group, first_host
from dlcli.training.distributed.heartbeat import Heartbeat
from dlcli.training.distributed.ranks import (
    LocalRanks,
    check_machines,
    local_ranks,
    machine_range,
    needs_launcher,
)
from dlcli.training.distributed.shared_folder import create_or_join_run, launch_id
from dlcli.training.distributed.world import ALONE

# A rank: it writes what it saw to a file of its own.
PROGRAM = """
import json, sys
import torch
from torch import nn
from dlcli.config import LaunchConfig
from dlcli.training.distributed.worker import joined_world
from dlcli.errors import DlcliError

def gradients(world, forward, layer, parts):
    layer.zero_grad()
    inputs = torch.arange(24.0).reshape(8, 3)[world.rank :: world.size]
    pieces = inputs.chunk(parts)
    for number, piece in enumerate(pieces, 1):
        if number < len(pieces):
            with world.no_sync(forward):
                (forward(piece).sum() / (8 / world.size)).backward()
        else:
            (forward(piece).sum() / (8 / world.size)).backward()
    return {n: p.grad.flatten().tolist() for n, p in layer.named_parameters() if p.grad is not None}

def failing():
    raise DlcliError("the disk is full", hint="free some")

with joined_world(LaunchConfig(timeout_s=120), "cpu") as world:
    seen = {"rank": world.rank, "size": world.size, "device": str(world.device("auto"))}
    seen["sum"] = world.sum(world.rank + 1, 0.25, True)
    seen["broadcast"] = world.broadcast({"from": world.rank})
    seen["gather"] = world.gather(["of", world.rank])
    seen["on_main"] = world.run_on_main(lambda: world.rank + 10)
    try:
        world.run_on_main(failing)
    except DlcliError as exc:
        seen["error"] = [exc.message, exc.hint]
    torch.manual_seed(world.rank)  # other weights in each
    layer = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    forward = world.wrap(layer)
    seen["weights"] = layer[0].weight.flatten().tolist()
    seen["whole"] = gradients(world, forward, layer, 1)
    seen["parts"] = gradients(world, forward, layer, 2)
    layer[0].requires_grad_(False)
    forward = world.wrap(layer)
    seen["frozen"] = gradients(world, forward, layer, 2)
    layer[0].requires_grad_(True)
    forward = world.wrap(layer)
    seen["unfrozen"] = gradients(world, forward, layer, 2)
    layer.requires_grad_(False)
    seen["bare"] = world.wrap(layer) is layer
    norm = nn.BatchNorm1d(3)
    norm.running_mean += world.rank
    norm.running_var.fill_(0.1)
    world.share_buffers(norm)
    seen["buffers"] = [norm.running_mean.tolist(), norm.running_var.tolist()]
    world.record_step(7)
open(sys.argv[1] + f".{world.rank}", "w").write(json.dumps(seen))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of three ranks saw."""
    size = 3
    out = tmp_path_factory.mktemp("world") / "seen"
    common = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, str(out)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    for process in started:
        _, err = process.communicate(timeout=150)
        assert process.returncode == 0, err
    return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(size)]


def test_all_processes_agree(ranks: list[Any]) -> None:
    size = len(ranks)
    for rank, seen in enumerate(ranks):
        assert (seen["rank"], seen["size"], seen["device"]) == (rank, size, "cpu")
        assert seen["sum"] == [size * (size + 1) / 2, 0.25 * size, size]
        assert seen["broadcast"] == {"from": 0}
        assert seen["on_main"] == 10
        assert seen["error"] == ["the disk is full", "free some"]
    assert [seen["gather"] for seen in ranks] == [[["of", r] for r in range(size)], *[[]] * (size - 1)]


def test_gradients_are_those_of_the_undivided_batch(ranks: list[Any]) -> None:
    torch.manual_seed(0)
    first = nn.Linear(3, 2)
    layer = nn.Sequential(first, nn.Linear(2, 1))
    (layer(torch.arange(24.0).reshape(8, 3)).sum() / 8).backward()
    expected = {n: p.grad.flatten() for n, p in layer.named_parameters() if p.grad is not None}
    for seen in ranks:
        assert seen["weights"] == first.weight.flatten().tolist()  # those of the first process
        for case in ("whole", "parts", "unfrozen"):
            assert set(seen[case]) == set(expected)
            for name, grad in seen[case].items():
                torch.testing.assert_close(torch.tensor(grad), expected[name], rtol=1e-5, atol=1e-6)
        assert set(seen["frozen"]) == {"1.weight", "1.bias"}
        torch.testing.assert_close(torch.tensor(seen["frozen"]["1.weight"]), expected["1.weight"])
        assert seen["bare"]


def test_buffers_are_averaged_and_equal_ones_stay_bit_for_bit(ranks: list[Any]) -> None:
    tenth = torch.tensor(0.1).item()
    mean = (len(ranks) - 1) / 2
    for seen in ranks:
        assert seen["buffers"] == [[mean] * 3, [tenth] * 3]


def test_one_process_alone_needs_no_group() -> None:
    layer = nn.Linear(2, 2)
    assert ALONE.sum(1, 2.5) == [1, 2.5]
    assert ALONE.broadcast("x") == "x"
    assert ALONE.gather("x") == ["x"]
    assert ALONE.run_on_main(lambda: 3) == 3
    assert ALONE.wrap(layer) is layer
    with ALONE.no_sync(layer):
        pass
    ALONE.share_buffers(layer)
    ALONE.record_step(1)
    ALONE.leave()
    assert ALONE.device("cpu") == torch.device("cpu")


def test_a_rank_that_does_not_respond_is_named_with_its_last_step() -> None:
    store = HashStore()
    heartbeats = [Heartbeat(store, rank, 3) for rank in range(3)]
    starts = [threading.Thread(target=heartbeat.start) for heartbeat in heartbeats]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    heartbeats[1].step = 17
    heartbeats[1].close()  # its last word: a thread that ends writes no more
    store.set("heartbeat/step/1", "17")
    results: dict[int, Any] = {}
    calls = [
        threading.Thread(target=lambda r=r: results.update({r: heartbeats[r].find_missing()}))
        for r in (0, 2)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    missing, reports = results[0]
    assert reports
    assert not results[2][1]  # one tells it
    assert results[2][0] == missing
    [(who, where)] = missing
    assert who == f"rank 1 ({socket.gethostname()}, process {os.getpid()})"
    assert where == ", it last did step 17"


def test_torchrun_is_joined() -> None:
    env = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "5"}
    group = external_group(env)
    assert group is not None
    assert group.launcher == "torchrun"
    assert group.variables == env | {"LOCAL_WORLD_SIZE": "1"}
    assert not group.main
    assert external_group({**env, "TORCHELASTIC_RESTART_COUNT": "1"}).key == group.key  # type: ignore[union-attr]
    assert external_group({k: v for k, v in env.items() if k != "LOCAL_RANK"}) is None


SRUN = {
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "2", "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_NTASKS": "6", "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[003-004,9]", "SLURM_STEP_TASKS_PER_NODE": "2(x2),2",
}  # fmt: skip


def test_srun_is_joined_and_a_batch_script_is_not() -> None:
    group = external_group(SRUN)
    assert group is not None
    assert group.launcher == "srun"
    port = group.variables.pop("MASTER_PORT")
    assert 1024 < int(port) < 65536
    assert group.variables == {
        "RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu003",
    }  # fmt: skip
    batch = {k: v for k, v in SRUN.items() if "STEP" not in k}
    assert external_group(batch) is None
    assert external_group({}) is None


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("gpu[003-005,9],login", "gpu003"), ("a1,a2", "a1"), ("solo", "solo"), ("n[7]-ib", "n7-ib")],
)
def test_the_first_machine_of_a_slurm_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("devices", "device", "says"),
    [
        ("0", "cpu", "neither a number"),
        ("two", "cpu", "neither a number"),
        ("-1", "cpu", "neither a number"),
        ("1,,2", "cpu", "neither a number"),
        ("0,1", "cpu", "run on the CPU"),
    ],
)
def test_impossible_devices_are_refused(devices: str, device: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        local_ranks(LaunchConfig(devices=devices), device)


@pytest.mark.parametrize(
    ("devices", "device", "says"),
    [
        ("3", "cuda", "2 cuda devices"),
        ("0,5", "cuda", "2 cuda devices"),
        ("1,1", "cuda", "twice"),
        ("2", "cuda:1", "one device"),
    ],
)
def test_more_devices_than_there_are_are_refused(
    monkeypatch: pytest.MonkeyPatch, devices: str, device: str, says: str
) -> None:
    two_gpus(monkeypatch)
    with pytest.raises(UsageError, match=says):
        local_ranks(LaunchConfig(devices=devices), device)


def test_devices_are_counted_named_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_ranks(LaunchConfig(devices="4"), "cpu") == LocalRanks(4)
    auto = local_ranks(LaunchConfig(devices="auto"), "cpu")
    assert auto.count == 1
    assert "CPU" in auto.notice
    two_gpus(monkeypatch)
    assert local_ranks(LaunchConfig(devices="auto"), "cuda") == LocalRanks(2)
    assert local_ranks(LaunchConfig(devices="1,0"), "cuda") == LocalRanks(2, (1, 0))
    assert local_ranks(LaunchConfig(devices="1,"), "cuda") == LocalRanks(1, (1,))


def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlcli.training.distributed.ranks.resolve_device", torch.device)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)


def test_one_process_on_one_machine_is_not_launched() -> None:
    assert not needs_launcher(LaunchConfig(), LocalRanks(1))
    assert needs_launcher(LaunchConfig(), LocalRanks(2))
    assert needs_launcher(LaunchConfig(), LocalRanks(1, (1,)))
    assert needs_launcher(LaunchConfig(nnodes="1:4"), LocalRanks(1))


def test_machines_are_a_number_or_a_range() -> None:
    assert machine_range(LaunchConfig(nnodes="2")) == (2, 2)
    assert machine_range(LaunchConfig(nnodes="1:4")) == (1, 4)
    for wrong in ("0", "4:1", "two", "1:", "2:x"):
        with pytest.raises(UsageError, match="--nnodes"):
            machine_range(LaunchConfig(nnodes=wrong))


def test_machines_must_be_able_to_find_each_other() -> None:
    check_machines(LaunchConfig(), None)
    check_machines(LaunchConfig(nnodes="2", rdzv_endpoint="10.0.0.1:29500"), "a")
    with pytest.raises(UsageError, match="needs --rdzv-endpoint"):
        check_machines(LaunchConfig(nnodes="2"), "a")
    with pytest.raises(UsageError, match="HOST:PORT"):
        check_machines(LaunchConfig(nnodes="2", rdzv_endpoint="10.0.0.1"), "a")
    with pytest.raises(UsageError, match="needs --name"):
        check_machines(LaunchConfig(nnodes="2", rdzv_endpoint="h:1"), None)


def make_run(root: Path) -> RunFolder:
    run = RunFolder(root / "a")
    run.path.mkdir(parents=True)
    run.write_record({"status": "running", "made_in": str(root)})
    return run


def test_the_first_machine_makes_the_run_and_the_others_join_it(tmp_path: Path) -> None:
    run, created = create_or_join_run(tmp_path / "runs", "a", "me", make_run)
    assert created
    assert run.path == tmp_path / "runs" / "a"
    again, created = create_or_join_run(tmp_path / "runs", "a", "me", make_run)
    assert not created
    assert again == run
    with pytest.raises(UsageError, match="other settings"):
        create_or_join_run(tmp_path / "runs", "a", "somebody else", make_run)
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["a"]


def test_a_name_that_is_no_folder_name_means_the_same_folder_on_all_machines(tmp_path: Path) -> None:
    first, _ = create_or_join_run(tmp_path, "../a", "me", make_run)
    assert first.path == tmp_path / "a"
    assert create_or_join_run(tmp_path, "../a", "me", make_run) == (first, False)


def test_of_two_machines_at_once_one_makes_the_run(tmp_path: Path) -> None:
    def slower(root: Path) -> RunFolder:
        create_or_join_run(tmp_path, "a", "me", make_run)  # the other machine, meanwhile
        return make_run(root)

    run, created = create_or_join_run(tmp_path, "a", "me", slower)
    assert not created
    assert run.read_record()["launch_id"] == "me"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_run_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def fails(root: Path) -> RunFolder:
        make_run(root)
        raise DlcliError("no such data")

    with pytest.raises(DlcliError, match="no such data"):
        create_or_join_run(tmp_path, "a", "me", fails)
    assert list(tmp_path.iterdir()) == []


def test_what_is_learnt_identifies_a_launch_and_its_machines_do_not() -> None:
    base = TrainConfig()
    other = TrainConfig(launch=LaunchConfig(devices="4", rdzv_endpoint="h:1"))
    assert launch_id(base) == launch_id(other)
    changed = TrainConfig.model_validate({"optim": {"lr": 0.5}})
    assert launch_id(changed) != launch_id(base)


def test_a_failure_is_distinguished_from_the_one_before(tmp_path: Path) -> None:
    before = failures.failure_digest(tmp_path)
    assert before == ""
    assert failures.failure_since(tmp_path, before) is None
    failure = failures.Failure("error", "it diverged", "use a lower rate", 1, 2)
    failures.write_failure(tmp_path, failure)
    assert failures.failure_since(tmp_path, before) == failure
    first = failures.failure_digest(tmp_path)
    assert failures.failure_since(tmp_path, first) is None
    failures.write_failure(tmp_path, failure)  # the same words, another time
    assert failures.failure_since(tmp_path, first) == failure
    error = failure.error()
    assert (error.message, error.hint, error.exit_code) == ("it diverged", "use a lower rate", 1)
    failures.clear_failure(tmp_path)
    assert failures.read_failure(tmp_path) is None
    write_json(tmp_path / "failure.json", ["no failure"])
    assert failures.read_failure(tmp_path) is None
