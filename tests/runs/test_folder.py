"""Which run is meant, and that nobody's run is overwritten."""

from pathlib import Path

import pytest

from dlcli.errors import DlcliError
from dlcli.runs.folder import create_run, find_artifact, find_run, newest_run, resume_command, run_of


def make(root: Path, name: str, started_at: str, *, model: bool = True) -> Path:
    run = create_run(root, name)
    run.write_record({"started_at": started_at})
    if model:
        run.best.write_bytes(b"x")
    return run.path


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    got = [create_run(tmp_path, "cnn-digits").name for _ in range(3)]
    assert got == ["cnn-digits", "cnn-digits-2", "cnn-digits-3"]


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "my photos", "ünï"])
def test_a_name_never_leaves_the_folder(tmp_path: Path, name: str) -> None:
    assert create_run(tmp_path / "runs", name).path.parent == tmp_path / "runs"


def test_the_newest_run_is_the_one_started_last(tmp_path: Path) -> None:
    late = make(tmp_path, "a", "2026-01-02")
    early = make(tmp_path, "b", "2026-01-01")
    assert newest_run(tmp_path).path == late
    assert find_run("last", tmp_path).path == late
    assert find_artifact(None, tmp_path) == late / "best.safetensors"
    assert find_artifact("b", tmp_path) == early / "best.safetensors"
    assert find_artifact(str(early), tmp_path) == early / "best.safetensors"
    assert find_artifact(str(early / "best.safetensors"), tmp_path) == early / "best.safetensors"
    run = run_of(early / "best.onnx")
    assert run is not None
    assert run.path == early


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match="no run in"):
        find_artifact(None, tmp_path)
    make(tmp_path, "cnn-digits", "2026", model=False)
    with pytest.raises(DlcliError, match="has no model yet"):
        find_artifact("cnn-digits", tmp_path)
    with pytest.raises(DlcliError) as caught:
        find_run("cnn-digit", tmp_path)
    assert caught.value.hint == "did you mean 'cnn-digits'?"
    with pytest.raises(DlcliError, match=r"nowhere\.onnx does not exist"):
        find_artifact("nowhere.onnx", tmp_path)


@pytest.mark.parametrize("text", [".", "../a"])
def test_a_run_that_is_named_from_within_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    folder = make(tmp_path, "a", "2026-01-01")
    monkeypatch.chdir(folder)
    assert find_run(text, Path("runs")).name == "a"


def test_the_command_that_goes_on_with_a_run_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("runs"), "a", "2026")
    make(Path("my runs"), "b", "2026", model=False)
    assert resume_command(find_run("a", Path("runs"))) == "dlcli train --resume a"
    with pytest.raises(DlcliError) as caught:
        find_artifact(None, Path("my runs"))
    assert caught.value.hint == "resume it with: dlcli train --resume b --runs-dir 'my runs'"
