"""``dlcli train``: what it refuses before there is a run, and which settings a resume may change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.cli import main
from dlcli.commands.train_session.join import find_or_create_run
from dlcli.config import LaunchConfig, TrainConfig
from dlcli.pixels.cache import keys
from dlcli.runs.folder import RunFolder
from dlcli.settings import dump_yaml, validate
from dlcli.training.distributed import ranks, worker
from dlcli.training.distributed.external_launcher import ExternalGroup
from dlcli.training.distributed.world import ALONE, World

NEW = ["train", "-m", "mlp", "-d", "digits", "--device", "cpu", "-b", "500", "-q"]
GROUP = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process as one that torchrun started."""
    for key, value in (GROUP | {"MASTER_PORT": "29951"}).items():
        monkeypatch.setenv(key, value)
    return monkeypatch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "abc"], "--devices 'abc'"),
        (["--devices", "0,1"], "names devices, but the processes run on the CPU"),
        (["--nnodes", "2"], "needs --rdzv-endpoint"),
    ],
)
def test_what_cannot_be_launched_leaves_no_folder(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([*NEW, *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_quiet_is_quiet_also_about_a_plan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEW, "--dry-run"]) == 0
    assert capsys.readouterr().err == ""


def test_a_finished_run_is_reported_as_at_its_end(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*NEW, "-e", "1", "--name", "a", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["train", "--resume", "a", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {key: first[key] for key in again} == again


def test_printed_commands_can_be_typed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEW, "-e", "1", "--name", "a", "--runs-dir", "my runs"]) == 0
    assert "dlcli eval 'my runs/a' " in " ".join(capsys.readouterr().out.split())
    assert main(["train", "--resume", "a", "--runs-dir", "my runs"]) == 0
    command = "dlcli train --resume a --runs-dir 'my runs' --epochs N\n"
    assert capsys.readouterr().out.endswith(command)


def test_force_cannot_change_what_the_record_decides(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*NEW, "-e", "1", "--name", "a"]) == 0
    before = RunFolder(Path("runs/a")).config.read_bytes()
    options = ["-e", "2", "--set", "model.args.dropout=0.9", "--lr", "0.1"]
    assert main(["train", "--resume", "a", *options, "--force"]) == 2
    err = capsys.readouterr().err
    assert "no run can change its model or its encoders: model.args: {} -> {'dropout': 0.9}" in err
    assert "--weights runs/a/best.safetensors" in err
    assert main(["train", "--resume", "a", *options]) == 2
    assert "--force" not in capsys.readouterr().err
    assert RunFolder(Path("runs/a")).config.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "2", "--checkpoint-every", "5sec"], "--checkpoint-every '5sec'"),
        (["--devices", "2", "--max-time", "soon"], "--max-time 'soon'"),
        (["--nnodes", "2"], "--nnodes 2 needs --rdzv-endpoint"),
    ],
)
def test_a_refused_resume_in_several_processes_leaves_the_run_as_it_was(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([*NEW, "-e", "1", "--name", "a"]) == 0
    before = RunFolder(Path("runs/a")).config.read_bytes()
    assert main(["train", "--resume", "a", "-e", "2", *options]) == 2
    assert message in capsys.readouterr().err
    assert RunFolder(Path("runs/a")).config.read_bytes() == before


@pytest.mark.parametrize("option", ["--devices", "--nnodes", "--max-restarts"])
def test_launch_settings_are_not_ignored_under_another_launcher(
    here: Path, torchrun: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main([*NEW, option, "2"]) == 2
    assert f"{option} is for dlcli's own launcher, and torchrun started" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_list_of_devices_has_one_for_each_process_of_a_group(
    here: Path, torchrun: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torchrun.setattr(torch.accelerator, "device_count", lambda: 8)
    torchrun.setattr(ranks, "resolve_device", lambda name: torch.device("cuda"))
    torchrun.setenv("LOCAL_WORLD_SIZE", "4")
    assert main([*NEW, "--devices", "0,1"]) == 2
    assert "not a device for each process: torchrun started 4" in capsys.readouterr().err
    assert main([*NEW, "--devices", "a,b"]) == 2
    assert "is neither a number, a list of devices" in capsys.readouterr().err


def test_a_group_finds_its_run_next_to_a_damaged_one(here: Path) -> None:
    for name, record in (("b", "["), ("a", '{"group": "torchrun-1"}')):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "run.json").write_text(record)
    group = ExternalGroup("torchrun", "torchrun-1", GROUP)

    def create(root: Path) -> Any:
        raise AssertionError("it creates another run")

    assert find_or_create_run(group, Path("runs"), create).name == "a"


def test_a_resumed_run_joins_a_group_by_its_own_settings(
    here: Path, torchrun: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as alone:
        for key in GROUP:
            alone.delenv(key)
        assert main([*NEW, "--max-steps", "1", "--name", "a", "--set", "launch.timeout_s=77"]) == 0
    run = RunFolder(Path("runs/a"))
    run.write_record({**run.read_record(), "status": "interrupted"})
    launched_with: list[Any] = []

    @contextmanager
    def joined_world(launch: LaunchConfig, device: str) -> Iterator[World]:
        launched_with.extend([launch.timeout_s, device])
        yield ALONE

    torchrun.setattr(worker, "joined_world", joined_world)
    assert main(["train", "--resume", "a", "-q"]) == 0
    assert launched_with == [77.0, "cpu"]


def test_one_of_a_group_says_that_a_run_is_finished(
    here: Path, torchrun: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(Path("runs/a"))
    run.path.mkdir(parents=True)
    run.write_record({"status": "finished"})
    settings = {"model": {"name": "mlp"}, "data": {"data": "digits"}}
    run.config.write_text(dump_yaml(validate(TrainConfig, settings)))
    for rank in "01":
        torchrun.setenv("RANK", rank)
        assert main(["train", "--resume", "a"]) == 0
    assert capsys.readouterr().out.count("run a is finished") == 1


PHOTOS = ["train", "-m", "cnn", "--img-size", "32", "--device", "cpu", "-b", "6", "-e", "2"]


def _train_photos(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> tuple[str, str]:
    assert main([*PHOTOS, "-d", "photos", "-q", "--json", *options]) == code
    return capsys.readouterr()


@pytest.mark.slow
def test_a_run_learns_the_same_with_any_cache(
    here: Path, capsys: pytest.CaptureFixture[str], photo_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(keys, "SETTLED_S", 0.0)
    before = sorted(photo_folder().rglob("*"))
    metrics = []
    for name, options in (
        ("none", ["--cache", "none"]),
        ("ram", ["--cache", "ram"]),
        ("first", ["--cache", "disk", "--cache-dir", "c"]),
        ("second", ["--cache", "disk", "--cache-dir", "c"]),
        ("auto", ["--cache-dir", "c"]),
    ):
        out, _ = _train_photos(capsys, "--name", name, *options)
        metrics.append(json.loads(out)["metrics"])
        (decoding,) = Path("c").iterdir() if name not in ("none", "ram") else (None,)
        if name == "first":
            assert decoding is not None
            first = {path.name for path in decoding.iterdir()}
            assert first
        elif decoding is not None:
            assert {path.name for path in decoding.iterdir()} == first
    assert all(one == metrics[0] for one in metrics)
    assert sorted((here / "photos").rglob("*")) == before
    saved = RunFolder(Path("runs/first")).config
    assert f"cache_dir: {here / 'c'}" in saved.read_text()


def test_a_cache_that_cannot_be_written_is_one_warning(
    here: Path, capsys: pytest.CaptureFixture[str], photo_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(keys, "SETTLED_S", 0.0)
    photo_folder()
    Path("c").write_text("a file")
    assert main([*PHOTOS, "-d", "photos", "--cache", "disk", "--cache-dir", "c"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("train: cannot write decoded images to") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cache", "ram", "--cache-dir", "c"], "--cache-dir is for --cache auto and disk, not ram"),
        (["--cache-dir", "photos/c"], "is in the data folder, where dlcli never writes"),
        (["--set", "data.cache_limit=0"], "data.cache_limit"),
    ],
)
def test_a_cache_that_makes_no_sense_leaves_no_folder(
    here: Path, capsys: pytest.CaptureFixture[str], photo_folder: Callable[..., Path],
    options: list[str], message: str,
) -> None:  # fmt: skip
    photo_folder()
    _, err = _train_photos(capsys, *options, code=2)
    assert message in " ".join(err.split())
    assert not Path("runs").exists()


def test_a_cache_is_for_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text("a,b\n" + "".join(f"{i},{i * i % 7}\n" for i in range(40)))
    assert main(["train", "-m", "mlp", "-d", "t.csv", "--cache", "disk"]) == 2
    assert "--cache is for image data" in capsys.readouterr().err
