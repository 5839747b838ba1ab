"""Students of `ship`: smaller, with the inputs, classes and splits of the original."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from document_commands import write_data
from tiny import image, make_task, text

from dlcli.cli import main
from dlcli.deploy.ship.students import check_same_inputs
from dlcli.errors import DlcliError
from dlcli.formats.base import read_card
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run


def test_a_student_that_reads_other_inputs_is_refused() -> None:
    own = make_task(image(8))
    check_same_inputs(make_task(image(8, mean=0.1, std=0.9)), own)  # each normalises images itself
    for other in (make_task(image(9)), make_task(image(8), classes="bac"), make_task(text())):
        with pytest.raises(DlcliError, match="encoded in another way"):
            check_same_inputs(other, own)


@pytest.mark.slow
def test_a_student_learns_from_the_original_on_its_splits_and_is_measured_like_any_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    large = ("--set", "model.args.hidden=512", "--device", "cpu", "--name", "large", "-q")
    assert main(["train", "-m", "lstm", "-d", "questions.csv", "-e", "2", *large]) == 0
    capsys.readouterr()
    bounds = ("--max-size", "1kB", "--max-drop", "99%", "--epochs", "1")
    assert main(["ship", "large", "--no-latency", "--device", "cpu", *bounds, "--json"]) == 3
    result = json.loads(capsys.readouterr().out)
    sizes = {one["label"]: one["size_bytes"] for one in result["attempts"]}
    assert sizes["distilled-cnn-int8"] < 0.3 * sizes["original-float"], (sizes, result["failed"])
    run = RunFolder(next(Path("runs/large/ship").glob("attempts-*/distilled-cnn-2ep")))
    own = RunFolder(Path("runs/large"))
    assert read_run(run).config.loss.teacher == str(own.best.resolve())
    assert json.loads(run.splits.read_text())["splits"] == json.loads(own.splits.read_text())["splits"]
    assert read_card(run.best).params <= 0.25 * read_card(own.best).params
