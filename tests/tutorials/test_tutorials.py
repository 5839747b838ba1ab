"""Six introductory tutorials, each a file as its reader writes it, through all that dlcli does with it.

They train, are killed and go on to the same bits, learn the same on two ranks, are measured, predict,
and are exported with equal outputs or refused with the reason.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import write_csv, write_photos
from tutorial_runs import kill_at, run_as_ranks

from dlcli.cli import main
from dlcli.formats.checkpoint import read_tensors
from dlcli.runs.folder import RunFolder, read_events
from dlcli.training.loop.state import load_newest

FILES = Path(__file__).parent / "files"
FIT = ("--device", "cpu", "-q", "-e", "3", "--checkpoint-every", "2", "--set", "fit.min_steps=1")
KILLED_AT = 5  # between two states, in the second epoch or later


def write_digits(folder: Path) -> None:
    """One digit to predict, as an image file."""
    from PIL import Image
    from sklearn.datasets import load_digits

    pixels = load_digits().images[7] / 16 * 255
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "digit.png")


def write_houses(folder: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3)).round(3)
    prices = 100 + 10 * rows.sum(axis=1, keepdims=True)
    write_csv(
        folder / "houses.csv",
        ["rooms", "area", "age", "price"],
        np.hstack([rows, prices]).round(3).tolist(),
    )


def write_folders(folder: Path) -> None:
    write_photos(folder / "photos", ("cold", "warm"), 10, splits=("train", "val"))


def write_nothing(folder: Path) -> None: ...


@dataclass(frozen=True)
class Tutorial:
    """What its reader types, in a folder that holds ``file`` and what ``write`` puts there.

    No dropout, of which each rank would draw a mask of its own. ``exported``: the formats that hold the
    model; ``refused``: the reason where ONNX does not.
    """

    file: str
    train: tuple[str, ...]
    metric: str
    predict: str
    key: str
    write: Callable[[Path], None] = write_nothing
    exported: tuple[str, ...] = ("onnx",)
    refused: str = ""


TUTORIALS = {
    "cnn": Tutorial(
        "digits_cnn.py",
        ("-m", "digits_cnn.py:ConvNet", "-d", "digits", "-b", "400", "--set", "model.args.dropout=0"),
        "accuracy", "digit.png", "label",
        write=write_digits,
        exported=("onnx", "pt2"),  # pt2 has the layout that view() needs
    ),
    "csv": Tutorial(
        "csv_rows.py",
        ("-m", "csv_rows.py:PriceNet", "-d", "csv_rows.py:HousesDataset", "-b", "8",
         "--set", "data.args.csv_file=houses.csv"),
        "rmse", "houses.csv", "value",
        write=write_houses,
    ),
    "folder": Tutorial(
        "photo_folder.py",
        ("-m", "cnn", "-d", "photo_folder.py:make_splits", "-b", "8", "--set", "data.args.root=photos",
         "--set", "model.args.dropout=0"),
        "accuracy", "photos/val/warm/0.jpg", "label",
        write=write_folders,
    ),
    "seq2seq": Tutorial(
        "translator.py",
        ("-m", "translator.py:Seq2Seq", "-d", "translator.py:NumbersInWords", "-b", "24",
         "--task", "seq2seq"),
        "loss", "two one", "text",
    ),
    "function": Tutorial(
        "binary_units.py",
        ("-m", "binary_units.py:BinaryNet", "-d", "digits", "-b", "400"),
        "accuracy", "digit.png", "label",
        write=write_digits,
    ),
    "branches": Tutorial(
        "branching_net.py",
        ("-m", "branching_net.py:BranchingNet", "-d", "digits", "-b", "400"),
        "accuracy", "digit.png", "label",
        write=write_digits,
        exported=("torchscript",),  # compiled: both branches are in the file
        refused=r"it branches on values of a tensor, in branching_net\.py line \d+: if image\.mean\(\)",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A tutorial whose run "whole" was trained in ``folder``, the working folder."""

    tutorial: Tutorial
    folder: Path

    def outcome(self, run: str) -> dict[str, torch.Tensor]:
        """Every tensor of the last state and of the best model."""
        folder = RunFolder(self.folder / "runs" / run)
        state, problems = load_newest(folder.state)
        assert state is not None
        assert not problems
        return state.tensors | {f"best/{k}": v for k, v in read_tensors(folder.best)[0].items()}

    def losses(self, run: str) -> list[float]:
        """The loss of each step."""
        events = read_events(RunFolder(self.folder / "runs" / run).metrics)
        return [event["loss"] for event in events if event["event"] == "StepDone"]

    def train(self, name: str) -> list[str]:
        """The command that trains a run."""
        return ["train", *self.tutorial.train, *FIT, "--set", "fit.log_every=1", "--name", name]


@pytest.fixture(scope="module", params=list(TUTORIALS))
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    tutorial, folder = TUTORIALS[request.param], tmp_path_factory.mktemp(request.param)
    (folder / tutorial.file).write_text((FILES / tutorial.file).read_text())
    tutorial.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = Trained(tutorial, folder)
        assert main(result.train("whole")) == 0
        yield result


def call(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> Any:
    """What a command prints as JSON, or its error."""
    capsys.readouterr()
    exit_code = main([*argv, "--json"])
    out, err = capsys.readouterr()
    assert exit_code == code, err
    return json.loads(out) if code == 0 else err


def test_it_learns_and_is_evaluated(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    losses = trained.losses("whole")
    assert np.mean(losses[-3:]) < losses[0]
    evaluated = call(capsys, "eval", "whole", "--split", "val", "--device", "cpu")
    assert math.isfinite(evaluated["metrics"][trained.tutorial.metric])


def test_killed_it_goes_on_to_the_same_bits(trained: Trained) -> None:
    kill_at(KILLED_AT, trained.folder, trained.train("killed"))
    run = RunFolder(trained.folder / "runs" / "killed")
    assert run.read_record()["status"] != "finished"
    assert main(["train", "--resume", "killed", "-q"]) == 0
    whole, resumed = trained.outcome("whole"), trained.outcome("killed")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns(trained: Trained) -> None:
    run_as_ranks(trained.folder, trained.train("two"))
    losses = trained.losses("two")
    assert len(losses) > KILLED_AT
    assert losses == pytest.approx(trained.losses("whole"), rel=1e-4)


def prediction(
    capsys: pytest.CaptureFixture[str], trained: Trained, artifact: str, *options: str
) -> Any:
    """What an artifact predicts for the tutorial's input, in words or rounded."""
    rows = call(capsys, "predict", "-a", artifact, trained.tutorial.predict, *options)["predictions"]
    value = rows[0][trained.tutorial.key]
    return value if isinstance(value, str) else pytest.approx(value, rel=1e-4)


def test_it_is_exported_and_predicts_alike_or_is_refused(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    tutorial = trained.tutorial
    expected = prediction(capsys, trained, "whole", "--device", "cpu")
    for form in tutorial.exported:
        exported = call(capsys, "export", "whole", "--format", form, "--no-latency")
        assert exported["parity"]["ok"]
        assert exported["parity"]["one_branch"] == []
        assert prediction(capsys, trained, exported["output"]) == expected
    if tutorial.refused:
        error = " ".join(call(capsys, "export", "whole", "--onnx", code=1).split())
        assert re.search(tutorial.refused, error)
