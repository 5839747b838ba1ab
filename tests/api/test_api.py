"""dlcli from Python: the same runs, models and figures as of the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import dlcli
from dlcli.api.python_words import in_python
from dlcli.cli import main

DIGITS: dict[str, Any] = {"data": "digits", "epochs": 1, "batch_size": 500, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("DLCLI_STATE", str(path / "state"))
        yield path


@pytest.fixture(scope="module")
def run(folder: Path) -> dlcli.Run:
    return dlcli.train(model="linear", name="r", optim={"lr": 0.01}, **DIGITS)


def test_importing_dlcli_loads_nothing_heavy() -> None:
    code = "import dlcli, sys; dlcli.__version__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pydantic", "rich", "dlcli.api"} & set(loaded.stdout.split())


def test_training_prints_nothing_and_is_the_run_of_the_command(
    run: dlcli.Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = dlcli.train({"optim": {"lr": 0.01}}, model="linear", name="again", **DIGITS)
    assert capsys.readouterr().out == ""
    argv = ["-m", "linear", "-d", "digits", "-e", "1", "-b", "500", "--device", "cpu", "--lr", "0.01"]
    assert main(["train", *argv, "--name", "c", "-q"]) == 0
    modules = [dlcli.load(path).module().state_dict() for path in (run.best, again.best, "c")]
    assert all(torch.equal(modules[0][k], other[k]) for other in modules[1:] for k in modules[0])
    assert run.record["status"] == "finished"
    assert 0 < run.metrics["accuracy"] <= 1
    assert next(event["event"] for event in run.events()) == "RunStarted"


def test_a_run_trains_on(folder: Path) -> None:
    run = dlcli.train(model="linear", name="on", **DIGITS)
    assert run.resume(epochs=2).record["epochs_done"] == 2


def test_evaluation_is_that_of_the_command(run: dlcli.Run, capsys: pytest.CaptureFixture[str]) -> None:
    result = dlcli.evaluate(run.load(), split="val")
    assert main(["eval", "r", "--split", "val", "--json", "--device", "cpu"]) == 0
    assert result.metrics == json.loads(capsys.readouterr().out)["metrics"]
    assert isinstance(result, dlcli.EvalResult)
    assert result.metrics == run.metrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 1}, "no setting 'epoch'"),
        ({"learning_rate": 1}, "no setting 'learning_rate'"),
        ({"epochs": 0}, r"fit\.epochs .* = 0"),
        ({"optim": {"rate": 1}}, "unknown setting 'optim.rate'"),
        ({"model": "lineer"}, "unknown model 'lineer'"),
    ],
)
def test_wrong_settings_are_named(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(dlcli.DlcliError, match=message) as caught:
        dlcli.train(**{"model": "linear", **DIGITS, **settings})
    assert "learning_rate" not in settings or "'lr'" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--epochs sets another number", "epochs sets another number"),
        ("use --batch-size 2 or more", "use batch_size=2 or more"),
        ("--weights FILE or --no-pretrained", "weights=FILE or pretrained=False"),
        ("add --trust, or --offline", "add trust=True, or offline=True"),
        ("--set optim.args.eps=1e-6; --lr 3e-4", 'optim={"args": {"eps": 1e-6}}; lr=3e-4'),
        ("--lr and --lr-of exclude each other", "lr and lr_of exclude each other"),
        ("resume with: dlcli train --resume r", "resume with: dlcli train --resume r"),
        ("--nonsense 3", "--nonsense 3"),
    ],
)
def test_errors_are_in_the_words_of_python(text: str, words: str) -> None:
    assert in_python(text) == words


def test_a_traceback_shows_the_hint_in_the_words_of_python(folder: Path) -> None:
    with pytest.raises(dlcli.DlcliError, match="cnn has no published weights") as caught:
        dlcli.train(**{**DIGITS, "model": "cnn", "pretrained": True})
    assert caught.value.message.startswith("pretrained=True: ")
    hint = "use weights=FILE, or pretrained=False to train from scratch"
    assert caught.value.hint == hint
    assert caught.value.__notes__ == [f"hint: {hint}"]


def test_images_in_any_form_get_the_same_prediction(run: dlcli.Run, folder: Path) -> None:
    model = run.load(device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    expected = model.outputs(pixels[..., None])
    assert expected.shape == (3, 10)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    files = [folder / f"{i}.png" for i in range(3)]
    forms = [
        [*pixels], torch.from_numpy(pixels)[:, None], [Image.open(file) for file in files], files,
        [str(file) for file in files], pixels[..., None] / 255,
    ]  # fmt: skip
    for form in forms:
        assert np.array_equal(model.outputs(form), expected), form
    assert np.allclose(model.outputs(pixels[0]), expected[:1], atol=1e-6)
    rows = model.predict([*pixels, np.zeros((16, 16), np.uint8)], top_k=None)
    assert [row["input"] for row in rows] == ["0", "1", "2", "3"]
    assert [int(row["label"]) for row in rows[:3]] == expected.argmax(1).tolist()
    assert len(rows[0]["probabilities"]) == 10
    with pytest.raises(dlcli.DlcliError, match="cannot predict a dict"):
        model.predict({"a": 1})
    with pytest.raises(dlcli.DlcliError, match=r"missing\.png"):
        model.predict("missing.png")


def test_rows_in_any_form_get_the_same_prediction(folder: Path) -> None:
    frame = pl.DataFrame({"x": range(60), "c": ["a", "b", "c"] * 20, "y": [i % 2 for i in range(60)]})
    frame.write_csv("t.csv")
    values = {"data": "t.csv", "target": "y", "epochs": 1, "device": "cpu", "name": "t"}
    model = dlcli.train(model="linear", **values).load(device="cpu")
    some = frame.head(5)
    some.write_csv("some.csv")
    expected = model.outputs("some.csv")
    assert len(expected) == 5
    for form in (some, some.to_dict(as_series=False), some.to_dicts()):
        assert np.array_equal(model.outputs(form), expected)
    assert len(model.predict({"x": 1, "c": "a"})) == 1
    with pytest.raises(dlcli.DlcliError, match="lacks 'c'"):
        model.predict({"x": [1]})
    assert model.predict([]) == []
    with pytest.warns(UserWarning, match="c"):
        model.predict({"x": 1, "c": "unseen"})


def test_texts_are_texts(folder: Path) -> None:
    pl.DataFrame({"text": ["good film", "bad film"] * 30, "label": ["pos", "neg"] * 30}).write_csv(
        "x.csv"
    )
    run = dlcli.train(model="linear", data="x.csv", kind="text", epochs=1, device="cpu", name="x")
    model = run.load(device="cpu")
    assert np.array_equal(model.outputs("good film"), model.outputs(["good film"]))
    with pytest.raises(dlcli.DlcliError, match="item 1 is None"):
        model.predict(["good film", None])
    assert {row["label"] for row in model.predict(["good film", "bad film"])} <= {"pos", "neg"}
