"""A saved run's settings: read once, in today's spelling, also of runs that an older version began."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlcli import __version__, files
from dlcli.cli import main
from dlcli.config.migrate import migrate
from dlcli.errors import DlcliError, UsageError
from dlcli.runs import saved as saving
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import SavedRun, read_run
from dlcli.settings import load_yaml

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def old_run(tmp_path: Path) -> RunFolder:
    """A run that dlcli 0.1 began."""
    return RunFolder(shutil.copytree(FIXTURES / "run-v1", tmp_path / "runs" / "v1"))


def rewrite(run: RunFolder, **optim: Any) -> None:
    settings = load_yaml(run.config)
    settings["optim"] |= optim
    run.config.write_text(yaml.safe_dump(settings))


def test_settings_of_0_1_are_read_as_they_were_meant(old_run: RunFolder) -> None:
    rewrite(old_run, label_smoothing=0.1)
    config = read_run(old_run).config
    assert (config.optim.optimizer, config.optim.warmup) == ("nesterov", None)
    assert config.loss.label_smoothing == 0.1
    rewrite(old_run, momentum=0.0)
    assert read_run(old_run).config.optim.optimizer == "sgd"


def test_a_migrated_run_keeps_the_meaning_of_what_is_changed(old_run: RunFolder) -> None:
    changes = {"optim": {"optimizer": "sgd", "warmup": 0.0}}
    changed = read_run(old_run).with_changes(changes)
    assert changed.changes == {"optim.optimizer": "sgd", "optim.warmup": 0.0}
    changed.write_settings()
    again = read_run(old_run)
    assert again.config == changed.config
    assert again.version == __version__
    assert again.record["versions"]["dlcli"] == "0.1.0"  # it began the run
    again.write_settings()
    assert read_run(old_run).config == changed.config


@pytest.mark.parametrize("writes", range(7))
def test_a_crash_while_writing_changes_no_meaning(
    old_run: RunFolder, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    before = read_run(old_run)
    changed = before.with_changes({"optim": {"optimizer": "sgd"}})
    done = 0

    real = files.os.replace

    def dies(source: Any, target: Any) -> None:
        nonlocal done
        if done == writes:
            raise KeyboardInterrupt
        done += 1
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", dies)
        if writes < 6:
            with pytest.raises(KeyboardInterrupt):
                changed.write_settings()
        else:
            changed.write_settings()
    after = read_run(old_run)
    assert after.config == (before if writes < 5 else changed).config
    assert after.changes == {}


def test_a_resumed_run_of_0_1_can_be_resumed_again(
    old_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old_run.path.parents[1])
    resume = ["train", "--resume", "v1", "-q"]
    sgd = ["--optimizer", "sgd", "--warmup", "0", "--epochs", "4", "--force"]
    assert main([*resume, *sgd]) == 0
    first = read_run(old_run).config
    assert (first.optim.optimizer, first.optim.warmup) == ("sgd", 0.0)
    assert main([*resume, "--epochs", "5"]) == 0
    second = read_run(old_run).config
    assert second.optim == first.optim


def test_a_resume_reads_migrates_and_validates_settings_once(
    old_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old_run.path.parents[1])
    calls: list[str] = []

    def counted(name: str) -> None:
        real = getattr(saving, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(saving, name, call)

    for name in ("load_yaml", "migrate", "validate"):
        counted(name)
    assert main(["train", "--resume", "v1", "-q"]) == 0
    assert calls == ["load_yaml", "migrate", "validate"]


def test_unchanged_settings_are_no_changes(old_run: RunFolder) -> None:
    saved = read_run(old_run)
    assert saved.with_changes({}) is saved
    assert saved.with_changes({"optim": {"optimizer": "nesterov"}}).changes == {}
    with pytest.raises(UsageError, match="unknown setting"):
        saved.with_changes({"optim": {"optimiser": "sgd"}})


@pytest.mark.parametrize("versions", [{"dlcli": "new"}, ["0.2"]])
def test_a_record_without_a_version_that_can_be_read_is_damaged(
    old_run: RunFolder, versions: object
) -> None:
    old_run.update_record(versions=versions)
    with pytest.raises(DlcliError, match=r"run\.json is damaged"):
        read_run(old_run)


def test_groups_that_were_renamed_are_read_by_their_old_name() -> None:
    from pydantic import BaseModel

    class Finetune(BaseModel):
        epochs: int = 1

    class New(BaseModel):
        finetune: Finetune = Finetune()

    class Other(BaseModel):
        epochs: int = 1

    assert migrate(New, {"tune": {"epochs": 3}}) == {"finetune": {"epochs": 3}}
    both = {"tune": {"epochs": 3, "lr": 1}, "finetune": {"epochs": 4}}
    assert migrate(New, both) == {"finetune": {"epochs": 4, "lr": 1}}
    assert migrate(Other, {"tune": {"epochs": 3}}) == {"tune": {"epochs": 3}}


def test_a_saved_run_is_frozen(old_run: RunFolder) -> None:
    saved: SavedRun = read_run(old_run)
    with pytest.raises(AttributeError):
        saved.version = "0.3"  # type: ignore[misc]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_place_of_the_settings_is_an_error_and_not_waited_for(old_run: RunFolder) -> None:
    old_run.config.unlink()
    os.mkfifo(old_run.config)
    with pytest.raises(DlcliError, match=r"config\.yaml is no regular file"):
        read_run(old_run)
