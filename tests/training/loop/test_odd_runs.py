"""Odd data and odd settings: nothing that was learned or measured is lost, nothing is a traceback."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError
from dlcli.events import ignore
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop import fit as fit_module
from dlcli.training.loop.interrupt import StopGuard
from dlcli.training.loop.state import load_newest
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan
from dlcli.training.prepare import prepare_run

BASE = {
    "data": {"data": "digits"},
    "model": {"name": "mlp", "args": {"widths": [8]}},
    "fit": {"epochs": 1, "batch_size": 200, "device": "cpu"},
}


def plan(**changes: Any) -> Plan:
    return make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))


def train(root: Path, **changes: Any) -> training.TrainResult:
    run_plan = plan(**changes)
    prepared = prepare_run(run_plan)
    return training.train(prepared, training.new_run(prepared, root, "a"), ignore, state=None)


def photos(root: Path, **fit: Any) -> dict[str, Any]:
    return {"data": {"data": str(root)}, "model": {"img_size": 8}, "fit": fit}


def test_a_sample_left_alone_by_a_bad_one_does_not_end_the_run(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    # 6 photos in batches of 2, one unreadable: some batch keeps one sample, in every epoch.
    root = photo_folder(("a", "b"), 3, splits=("train", "val"))
    (root / "train" / "a" / "0.jpg").write_bytes(b"")
    result = train(tmp_path / "runs", **photos(root, batch_size=2, epochs=2))
    assert result.fit.progress.step == 6
    assert list(result.bad_samples) == ["train/a/0.jpg"]


def test_a_train_split_that_cannot_be_read_is_an_error(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    root = photo_folder(("a", "b"), 3, splits=("train", "val"))
    for path in (root / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DlcliError, match=r"no image of a, b in train can be read; .*0 bytes"):
        train(tmp_path / "runs", **photos(root, batch_size=2))


class LateSignal(StopGuard):
    """A guard that sees a signal from its fourth reading on."""

    reads = 0

    @property
    def signum(self) -> int | None:
        self.reads += 1
        return signal.SIGINT if self.reads >= 4 else None

    @signum.setter
    def signum(self, value: int | None) -> None: ...


def test_a_signal_at_any_moment_saves_whole_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "StopGuard", LateSignal)
    result = train(tmp_path, fit={"log_every": 100})
    state, _ = load_newest(result.run.state)
    assert state is not None
    assert state.progress.batch > 0
    assert state.progress.seen == state.progress.batch * 200


@pytest.mark.parametrize(
    "options",
    [
        ["-m", "vit_b_16", "--no-pretrained", "--img-size", "100"],
        ["-m", "mlp", "--weights", "other.pth"],
        ["-m", "mlp", "--set", "model.args.widths=[0]"],
        ["-m", "cnn", "--set", "model.args.widths=[-1]"],
        ["-m", "cnn", "--set", "fit.monitor=2026-13-45"],
    ],
)
def test_what_cannot_be_built_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a.weight": torch.zeros(3)}, "other.pth")
    assert main(["train", "-d", "digits", "--device", "cpu", *options]) in (1, 2)
    assert not Path("runs").exists()


def test_a_plot_that_cannot_be_written_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train_it = ["train", "-m", "mlp", "-d", "digits", "--device", "cpu", "-b", "500", "-e", "1"]
    assert main([*train_it, "-q", "--name", "a"]) == 0
    plots = Path("runs/a/plots")
    for plot in plots.iterdir():
        plot.unlink()
    plots.rmdir()
    plots.write_text("in the way")
    capsys.readouterr()
    assert main(["eval", "-q"]) == 0
    output = capsys.readouterr()
    assert "accuracy" in output.out
    assert "no plot" in output.err
    assert main(["train", "--resume", "a", "-e", "2", "-q"]) == 0
    output = capsys.readouterr()
    assert "val accuracy" in output.out
    assert "no plot" in output.err


@pytest.mark.skipif(os.name == "nt", reason="names of files are Unicode there")
def test_names_that_are_no_utf8(
    tmp_path: Path, photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photo_folder()
    odd = os.fsdecode(b"caf\xe9")
    try:
        root.rename(root.with_name(odd))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    with pytest.raises(DlcliError, match=r"caf\\udce9.* UTF-8"):
        plan(data={"data": str(root.with_name(odd))})
    monkeypatch.setattr("sys.argv", ["dlcli", "--name", odd])
    assert train(tmp_path / "runs").run.read_record()["argv"][2] == "caf\\udce9"
