"""`dlcli runs --delete`: what it deletes, and what it leaves alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dlcli.cli import main
from dlcli.runs import deletion
from dlcli.runs.deletion import delete_run
from dlcli.runs.folder import RunFolder, create_run, list_runs
from dlcli.runs.folds import FoldsFolder
from dlcli.runs.group import RunGroup
from dlcli.runs.locks import run_lock
from dlcli.tune.study import StudyFolder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        run = create_run(tmp_path / "runs", name)
        run.write_record({"started_at": "2026-01-01"})
        run.best.write_bytes(b"x")
    return tmp_path / "runs"


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_named_run_is_deleted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--delete", "a", "--yes"]) == 0
    assert capsys.readouterr().out == f"deleted {Path('runs/a')}\n"
    assert names(root) == ["b"]
    assert main(["runs", "--delete", "b", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] == [str(Path("runs/b"))]


def test_without_yes_and_a_terminal_nothing_is_deleted(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "--delete", "a"]) == 2
    assert "hint: add --yes" in capsys.readouterr().err
    assert main(["runs", "--delete", "--yes"]) == 2
    assert main(["runs", "a", "--yes"]) == 2
    assert names(root) == ["a", "b"]


@pytest.mark.parametrize(("reply", "left"), [("y", ["b"]), ("n", ["a", "b"]), ("", ["a", "b"])])
def test_on_a_terminal_it_asks(
    reply: str, left: list[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *args, **options: _confirm(reply))
    assert main(["runs", "--delete", "a"]) == (0 if reply == "y" else 130)
    assert names(root) == left


def _confirm(reply: str) -> bool:
    import typer

    if reply != "y":
        raise typer.Abort
    return True


def test_a_run_that_is_written_to_is_refused_and_all_stay(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lock of another process: this one's own is reentrant."""
    import fcntl

    fd = os.open(root / "b" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        assert main(["runs", "--delete", "a", "b", "--yes"]) == 1
    finally:
        os.close(fd)
    assert "run b is being written by" in capsys.readouterr().err
    assert names(root) == ["a", "b"]
    with run_lock(root / "b"):
        pass


def test_links_are_never_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("mine")
    (root / "a" / "plots").symlink_to(outside)
    (root / "a" / "keep").symlink_to(outside / "keep")
    (root / "c").symlink_to(root / "b")
    assert main(["runs", "--delete", "c", "--yes"]) == 1  # a link to a run
    assert main(["runs", "--delete", "a", "--yes"]) == 0
    assert names(root) == ["b", "c"]
    assert (outside / "keep").read_text() == "mine"
    assert RunFolder(root / "b").best.is_file()


def test_a_folder_that_is_more_than_a_run_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "run.json").write_text('{"started_at": "2026"}')
    assert main(["runs", "--delete", str(root), "--yes"]) == 1
    assert "holds another run" in capsys.readouterr().err
    (root / "a" / "run.json").write_text("{}")
    assert main(["runs", "--delete", "a", "--yes"]) == 1
    monkeypatch.chdir(root / "b")
    assert main(["runs", "--delete", ".", "--yes"]) == 1
    assert names(root) == ["a", "b", "run.json"]


def test_a_run_whose_deletion_is_killed_is_no_run_and_its_name_is_free(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("dlcli.runs.deletion.shutil.rmtree", killed)
        with pytest.raises(SystemExit):
            delete_run(RunFolder(root / "a"))
    assert [run.name for run in list_runs(root)] == ["b"]
    again = create_run(root, "a")
    assert again.name == "a"
    again.write_record({"started_at": "2026-01-02"})
    delete_run(again)
    assert [run.name for run in list_runs(root)] == ["b"]


def left(root: Path, name: str = ".deleting-ab12cd3_") -> Path:
    """What a killed deletion leaves: the run has lost some of its files."""
    run = root / name / "c"
    (run / "state").mkdir(parents=True)
    (run / "state" / "tensors").write_bytes(b"x")
    return run


@pytest.mark.parametrize("args", [(), ("--delete", "b", "--yes")])
def test_a_deletion_that_was_killed_is_finished(
    args: tuple[str, ...], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = root.parent / "kept"
    kept.mkdir()
    (left(root) / "data").symlink_to(kept)
    (root / ".deleting-a2345678").symlink_to(kept)
    mine = left(root, ".deleting-later")  # of somebody else
    assert main(["runs", *args]) == 0
    assert "deleted c, as was begun before" in capsys.readouterr().err
    assert not (root / ".deleting-ab12cd3_").exists()
    assert kept.is_dir()
    assert mine.is_dir()


def test_a_deletion_that_was_killed_can_be_typed_again(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left(root)
    assert main(["runs", "--delete", "c", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] == []
    assert names(root) == ["a", "b"]


def test_two_processes_may_finish_the_same_deletion(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rmtree = deletion.shutil.rmtree

    def as_another_does(path: Path) -> None:
        (path / "c" / "state" / "tensors").unlink()
        monkeypatch.setattr(deletion.shutil, "rmtree", rmtree)
        raise FileNotFoundError

    left(root)
    monkeypatch.setattr(deletion.shutil, "rmtree", as_another_does)
    assert deletion.finish_deletions(root) == ["c"]
    assert names(root) == ["a", "b"]


@pytest.mark.parametrize("group", [FoldsFolder, StudyFolder])
def test_a_group_is_deleted_with_its_runs(
    group: type[RunGroup], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = group(root / "all")
    for number in (1, 2):
        folder.run(number).path.mkdir(parents=True)
        folder.run(number).write_record({"started_at": "2026-01-01"})
    folder.record.write_text("{}")
    with folder.working_on(3):
        pass
    fd = os.open(folder.claim(3) / "lock", os.O_RDWR)
    import fcntl

    fcntl.flock(fd, fcntl.LOCK_EX)
    try:  # its third run is about to begin
        assert main(["runs", "--delete", "a", "all", "--yes"]) == 1
    finally:
        os.close(fd)
    assert "is being written by" in capsys.readouterr().err
    own = root / "all" / "mine"
    own.mkdir()
    RunFolder(own).write_record({"started_at": "2026-01-01"})
    assert main(["runs", "--delete", "all", "--yes"]) == 1
    assert "holds another run" in capsys.readouterr().err
    assert names(root) == ["a", "all", "b"]
    own.rename(root / "mine")
    assert main(["runs", "--delete", "all", "--yes"]) == 0
    assert names(root) == ["a", "b", "mine"]
