"""A file of a run that somebody has changed is named; only --force resumes with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlcli import files
from dlcli.checksums import changed_entries, with_checksums
from dlcli.cli import main
from dlcli.errors import DlcliError
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--model", "mlp", "--data", "digits", "--epochs", "1", "--name", "a", "-q"]
    assert main([*argv, "--set", "model.args={widths: [4]}"]) == 0
    capsys.readouterr()
    return RunFolder(tmp_path / "runs" / "a")


RESUME = ["train", "--resume", "a", "-q", "--epochs", "2"]


def edit(path: Path, change: Any) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def move_test_sample(splits: dict[str, Any]) -> None:
    splits["splits"]["train"].append(splits["splits"]["test"].pop())


def change_mean(record: dict[str, Any]) -> None:
    record["plan"]["task"]["input"]["mean"][0] += 0.25


@pytest.mark.parametrize(
    ("name", "change", "entry"),
    [("splits.json", move_test_sample, "splits"), ("run.json", change_mean, "plan")],
)
def test_an_edited_file_is_named_and_resumed_with_only_by_force(
    run: RunFolder, capsys: pytest.CaptureFixture[str], name: str, change: Any, entry: str
) -> None:
    edit(run.path / name, change)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert main(RESUME) == 1
    err = capsys.readouterr().err
    assert f"{name} was changed after dlcli wrote it" in err
    assert f"SHA-256 of {entry} does not match" in err
    assert "--force" in err
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert main([*RESUME, "--force"]) == 0
    assert f"{name} was changed" in capsys.readouterr().err
    assert main([*RESUME[:-1], "3"]) == 0  # from now on these are the run's own files


def test_a_record_that_was_edited_is_known_as_such_after_dlcli_has_written_to_it(run: RunFolder) -> None:
    edit(run.record, change_mean)
    run.update_record(status="failed")
    assert changed_entries(run.read_record()) == ["plan"]
    edit(run.record, lambda record: record.pop("seed"))
    run.update_record(status="failed")
    assert changed_entries(run.read_record()) == ["plan", "seed"]


def test_an_edited_setting_is_refused_as_one_that_was_typed(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run.config.read_text()
    assert "  lr: 0.001\n" in text
    run.config.write_text("# mine\n" + text.replace("  lr: 0.001\n", "  lr: 0.5\n"))
    assert main(RESUME) == 2
    err = capsys.readouterr().err
    assert f"optim.lr: 0.001 -> 0.5 in {Path('runs/a/config.yaml')}" in err
    assert main([*RESUME, "--force"]) == 0
    saved = read_run(run)
    assert (saved.changes, saved.stored.optim.lr) == ({}, 0.5)
    run.config.write_text("# mine\n" + run.config.read_text())  # a comment is no change
    assert main([*RESUME[:-1], "3"]) == 0


def test_an_edit_of_what_a_resumed_run_may_change_is_a_change(run: RunFolder) -> None:
    run.config.write_text(run.config.read_text().replace("  epochs: 1\n", "  epochs: 2\n"))
    saved = read_run(run)
    assert saved.changes == {"fit.epochs": 2}
    saved.write_settings()
    assert read_run(run).changes == {}


def test_eval_says_that_the_splits_were_edited(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "a"]) == 0
    assert "was changed" not in capsys.readouterr().err
    edit(run.splits, move_test_sample)
    assert main(["eval", "a"]) == 0
    assert "splits.json was changed after dlcli wrote it" in capsys.readouterr().err


def test_a_run_without_checksums_resumes(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (run.record, run.splits):
        edit(path, lambda values: [values.pop("sha256"), values.pop("settings", None)])
    edit(run.record, lambda record: record.update(status="interrupted"))
    assert main(RESUME) == 0
    assert changed_entries(run.read_record()) == []
    assert read_run(run).record["settings"] == [run.config.read_text()]


@pytest.mark.parametrize("writes", range(4))
def test_a_run_that_died_while_it_wrote_its_settings_is_not_an_edited_one(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    before = read_run(run)
    changed = before.with_changes({"optim": {"lr": 0.25}})
    real, done = files.os.replace, 0

    def dies(source: Any, target: Any) -> None:
        nonlocal done
        if done == writes:
            raise KeyboardInterrupt
        done += 1
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", dies)
        if writes < 3:
            with pytest.raises(KeyboardInterrupt):
                changed.write_settings()
        else:
            changed.write_settings()
    after = read_run(run)
    assert after.changes == {} == dict.fromkeys(after.edits)
    assert after.stored == (before if writes < 2 else changed).config


def test_settings_in_the_record_that_are_no_settings_are_damage(run: RunFolder) -> None:
    run.update_record(settings=7)
    with pytest.raises(DlcliError, match=r"run\.json is damaged"):
        read_run(run)


def test_checksums_are_of_values_not_of_their_spelling() -> None:
    values = with_checksums({"a": {"x": 1.5, "y": [None]}, "b": "ü"})
    again = json.loads(json.dumps(values, indent=1, sort_keys=True))
    assert changed_entries(again) == []
    assert changed_entries({**again, "a": {"x": 1.25, "y": [None]}}) == ["a"]
    assert changed_entries({**again, "c": 1}) == ["c"]
    assert changed_entries({"a": 1}) == []
    assert changed_entries({"a": 1, "sha256": "x"}) == ["sha256"]
