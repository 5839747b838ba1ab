"""A write is whole or absent, whatever goes wrong in the middle of it."""

import errno
import os
from pathlib import Path

import pytest

from dlcli import files
from dlcli.errors import DlcliError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    files.write_json(target, {"old": 1})

    def stop_in_the_middle() -> None:
        with files.atomic_file(target) as tmp:
            tmp.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stop_in_the_middle()
    assert files.read_json(target) == {"old": 1}
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = tmp_path / "a.json"
    files.write_json(target, {"old": 1})

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(DlcliError, match=r"cannot write .*a\.json: No space left") as caught:
        files.write_json(target, {"new": 1})
    monkeypatch.undo()
    assert "untouched" in (caught.value.hint or "")
    assert files.read_json(target) == {"old": 1}
    assert names(tmp_path) == ["a.json"]


def test_a_folder_appears_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    with files.atomic_folder(target) as tmp:
        (tmp / "x").write_text("1")
        assert not target.exists()
        assert tmp.parent == tmp_path
    assert names(target) == ["x"]

    def stop_in_the_middle() -> None:
        with files.atomic_folder(tmp_path / "step-2") as tmp:
            (tmp / "x").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stop_in_the_middle()
    assert names(tmp_path) == ["step-1"]


def test_files_get_the_mode_that_the_umask_asks_for(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    files.write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain-folder").mkdir()
    with files.atomic_folder(tmp_path / "our-folder"):
        pass
    assert (tmp_path / "our-folder").stat().st_mode == (tmp_path / "plain-folder").stat().st_mode


def test_json_that_no_other_program_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(tmp_path / "a", {"x": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "begins"),
    [
        (errno.ENOSPC, "free some space or choose"),
        (errno.EDQUOT, "free some space or choose"),
        (errno.EROFS, "choose another folder"),
        (errno.EACCES, "choose another folder"),
    ],
)
def test_room_is_the_way_out_of_a_full_disk_only(tmp_path: Path, error: int, begins: str) -> None:
    with pytest.raises(files.CannotWrite) as caught, files.writing(tmp_path / "file"):
        raise OSError(error, os.strerror(error))
    assert (caught.value.hint or "").startswith(begins)
