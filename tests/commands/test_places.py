"""Runs and data in other folders than the one that a command is started in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from dlcli.checksums import KEY
from dlcli.cli import main
from dlcli.runs.folder import RunFolder

TRAIN = ["train", "--model", "mlp", "--data", "t.csv", "--device", "cpu", "--quiet", "--epochs", "6"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table, which is the current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    rows = "".join(f"{i % 7},{i % 5},{'ab'[i % 7 > i % 5]}\n" for i in range(60))
    (folder / "t.csv").write_text(f"x,y,label\n{rows}")
    monkeypatch.chdir(folder)
    return folder


def start(runs_dir: str = "r") -> None:
    assert main([*TRAIN, "--runs-dir", runs_dir, "--name", "a", "--max-steps", "2"]) == 0


def test_a_run_is_resumed_from_another_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    run = RunFolder(project / "r" / "a")
    assert main(["train", "--resume", str(run.path), "--max-steps", "3", "--quiet"]) == 0
    assert main(["prune", str(run.path), "--amount", "0.5", "--epochs", "1", "-q", "--no-latency"]) == 0
    assert list((tmp_path / "empty").iterdir()) == [tmp_path / "empty" / "runs"]


def test_a_run_of_an_older_version_is_resumed_from_another_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It recorded the path as it was typed, and the folder that it was started in."""
    start()
    run = RunFolder(project / "r" / "a")
    settings = yaml.safe_load(run.config.read_text())
    settings["data"]["data"] = "t.csv"
    run.config.write_text(yaml.safe_dump(settings))
    record = json.loads(run.record.read_text())
    older = {key: value for key, value in record.items() if key not in (KEY, "settings")}
    run.record.write_text(json.dumps(older))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", str(run.path), "--max-steps", "3", "--quiet", "--force"]) == 0


def test_a_project_that_moved_as_a_whole_is_resumed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    monkeypatch.chdir(tmp_path)
    shutil.move(project, tmp_path / "renamed")
    monkeypatch.chdir(tmp_path / "renamed")
    assert main(["train", "--resume", "a", "--runs-dir", "r", "--max-steps", "3", "--quiet"]) == 0


def test_data_that_moved_is_named_with_the_way_out(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start()
    shutil.move(project / "t.csv", tmp_path / "t.csv")
    resume = ["train", "--resume", "a", "--runs-dir", "r", "--max-steps", "3", "--quiet"]
    assert main(resume) == 1
    err = capsys.readouterr().err
    assert f"run a was trained on {project / 't.csv'}, which is not there" in err
    assert "dlcli train --resume a --runs-dir r --data PLACE --force" in err
    assert main([*resume, "--data", "../t.csv", "--force"]) == 0


def test_the_same_data_in_other_words_is_no_change(project: Path) -> None:
    start()
    resume = ["train", "--resume", "a", "--runs-dir", "r", "--max-steps", "3", "--quiet"]
    assert main([*resume, "--data", "../project/t.csv"]) == 0


@pytest.mark.parametrize("runs_dir", ["--runs-dir=~/r", "~/r"])
def test_a_home_is_expanded_in_paths(
    runs_dir: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    option = [runs_dir] if "=" in runs_dir else ["--runs-dir", runs_dir]
    (project / "c.yaml").write_text("data: {data: ~/project/t.csv}\n")
    train = [word for word in TRAIN if word not in ("--data", "t.csv")]
    assert (
        main([*train, *option, "--config", "~/project/c.yaml", "--name", "a", "--max-steps", "1"]) == 0
    )
    assert (tmp_path / "r" / "a" / "best.safetensors").is_file()
    output = ["--output", "~/p.csv", "--quiet"]
    assert main(["predict", "-a", "~/r/a", "~/project/t.csv", *output]) == 0
    assert (tmp_path / "p.csv").is_file()
    assert sorted(path.name for path in project.iterdir()) == ["c.yaml", "t.csv"]
