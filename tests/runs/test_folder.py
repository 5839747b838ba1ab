"""Which run is meant, and that nobody's run is overwritten."""

import unicodedata
from pathlib import Path

import pytest

from dlcli.errors import DlcliError
from dlcli.runs.folder import (
    create_run,
    find_artifact,
    find_run,
    list_runs,
    newest_run,
    resume_command,
    run_of,
    started_now,
)


def make(root: Path, name: str, started_at: str, *, model: bool = True) -> Path:
    run = create_run(root, name)
    run.write_record({"started_at": started_at})
    if model:
        run.best.write_bytes(b"x")
    return run.path


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    got = [create_run(tmp_path, "cnn-digits").name for _ in range(3)]
    assert got == ["cnn-digits", "cnn-digits-2", "cnn-digits-3"]


@pytest.mark.parametrize("name", ["verkäufe", "verka\u0308ufe", "продажи_2023", "写真"])
def test_letters_of_any_script_stay(tmp_path: Path, name: str) -> None:
    assert create_run(tmp_path, name).name == unicodedata.normalize("NFC", name)


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


def test_the_order_of_runs_does_not_follow_a_clock_that_went_back(tmp_path: Path) -> None:
    """Runs of versions that wrote no number come before, in the order of their times."""
    make(tmp_path, "b", "2027-01-02")
    make(tmp_path, "a", "2027-01-01")
    for name in ("z", "y"):
        started = started_now(tmp_path)
        create_run(tmp_path, name).write_record(
            {**started, "started_at": f"2026-01-0{'zy'.index(name)}"}
        )
    later = started_now(tmp_path)
    create_run(tmp_path, "x").write_record({**later, "started_at": "2020-01-01"})
    assert [run.name for run in list_runs(tmp_path)] == ["a", "b", "z", "y", "x"]
    assert newest_run(tmp_path).name == "x"


def test_a_home_in_a_name_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    run = make(tmp_path, "a", "2026-01-01")
    assert find_run("~/a", tmp_path / "elsewhere").path == run
    assert find_artifact("~/a/best.safetensors", tmp_path) == run / "best.safetensors"


def test_cross_validations_and_studies_are_named_where_a_run_is_needed(tmp_path: Path) -> None:
    for name, record in (("houses", "folds.json"), ("search", "study.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / record).write_text("{}")
    with pytest.raises(DlcliError, match="but houses, search") as caught:
        find_artifact(None, tmp_path)
    assert str(tmp_path / "search" / "trial-000") in str(caught.value.hint)
    with pytest.raises(DlcliError, match="search is a study, and this needs one model"):
        find_run("search", tmp_path)
    with pytest.raises(DlcliError, match="no run 'houes'") as caught:
        find_run("houes", tmp_path)
    assert caught.value.hint == "did you mean 'houses'?"


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
