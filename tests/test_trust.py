"""Files that can run code open when this user's dlcli wrote them, or when the user says so."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dlcli import trust
from dlcli.card import Card, ModelSpec
from dlcli.cli import main
from dlcli.config import ExportConfig
from dlcli.errors import DlcliError
from dlcli.formats.base import FORMATS, Artifact, ModelFile, open_artifact
from dlcli.formats.checkpoint import save_model
from dlcli.task import ImageInput, TaskSpec
from dlcli.zoo.base import build_model

CODE = """
import pathlib
from torch import nn

class Net(nn.Module):
    def __init__(self, task):
        super().__init__()
        pathlib.Path(__file__).with_suffix(".ran").touch()
        self.layer = nn.Linear(81, task.num_outputs)

    def forward(self, x):
        return self.layer(x.flatten(1))
"""
TASK = TaskSpec(
    input=ImageInput(channels=1, height=9, width=9, resize_size=9, mean=(0.4,), std=(0.3,)),
    class_names=("a", "b"),
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of known files of the test's own."""
    monkeypatch.setenv("DLCLI_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def own(tmp_path: Path) -> Artifact:
    """A model of the user's own code, written by this dlcli."""
    code = tmp_path / "net.py"
    code.write_text(CODE)
    spec = ModelSpec(name=f"{code}:Net")
    with trust.allowing(spec.name):
        save_model(tmp_path / "own.safetensors", build_model(spec, TASK), Card(model=spec, task=TASK))
    return open_artifact(tmp_path / "own.safetensors", device="cpu")


def forget(state: Path) -> None:
    shutil.rmtree(state)


FORMS = ("pt2", *(n for n, e in FORMATS.entries() if e.trainable and e.write and n != "adapter"))


@pytest.mark.parametrize("form", FORMS)
def test_exports_of_own_code_are_known(form: str, own: Artifact, state: Path) -> None:
    entry = FORMATS.get(form)
    assert entry.write is not None
    path = own.path.with_name(f"x{entry.suffix}")
    entry.write(own, path, ExportConfig())
    moved = path.rename(path.with_name(f"moved{entry.suffix}"))  # the bytes count, not the place
    open_artifact(moved, device="cpu")
    forget(state)
    with pytest.raises(DlcliError, match="was not written by your dlcli") as caught:
        open_artifact(moved, device="cpu")
    assert caught.value.hint is not None
    assert "--trust" in caught.value.hint


def test_nothing_of_a_strange_file_runs(own: Artifact, state: Path) -> None:
    ran = own.path.with_name("net.ran")
    ran.unlink()
    forget(state)
    with pytest.raises(DlcliError, match=r"runs the code of .*net\.py:Net"):
        open_artifact(own.path, device="cpu")
    assert not ran.exists()
    open_artifact(own.path, device="cpu", trust=True)
    assert ran.exists()


def test_what_was_trusted_once_is_known(own: Artifact, state: Path) -> None:
    forget(state)
    open_artifact(own.path, device="cpu", trust=True)
    open_artifact(own.path, device="cpu")


def test_what_could_not_be_opened_is_not_remembered(own: Artifact, state: Path) -> None:
    forget(state)
    own.path.with_name("net.py").unlink()
    with pytest.raises(DlcliError):
        open_artifact(own.path, device="cpu", trust=True)
    assert not trust.is_known(own.path)


def test_plain_models_and_graphs_need_no_trust(tmp_path: Path) -> None:
    spec = ModelSpec(name="linear")
    save_model(tmp_path / "x.safetensors", build_model(spec, TASK), Card(model=spec, task=TASK))
    open_artifact(tmp_path / "x.safetensors", device="cpu")
    assert not (tmp_path / "state").exists()
    spec = ModelSpec(name="file.py:Net")
    ours = Card(model=spec, task=TASK)
    for name, runs_code in (("onnx", False), ("safetensors", True)):  # a graph holds no code
        entry = replace(FORMATS.get(name), read_card=lambda path: ours)
        assert ModelFile(tmp_path / "x", entry).runs_code == runs_code


def test_a_list_that_cannot_be_written_is_no_error(
    own: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DLCLI_STATE", str(tmp_path / "file" / "below"))
    assert not trust.remember(own.path)
    assert not trust.is_known(own.path)


def test_a_user_without_a_home_has_no_list(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("DLCLI_STATE", "XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    assert not trust.remember(own.path)
    assert not trust.is_known(own.path)


def test_the_commands_pass_it_on(
    own: Artifact, state: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("L", (9, 9)).save(tmp_path / "x.png")
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "b").mkdir()
    for name in ("a", "b"):
        Image.new("L", (9, 9)).save(tmp_path / "data" / name / "1.png")
    forget(state)
    predict = ["predict", str(own.path), str(tmp_path / "x.png")]
    measure = ["eval", str(own.path), "--data", str(tmp_path / "data"), "--split", "all", "--json"]
    for command in (predict, measure):
        assert main(command) == 1
        assert "--trust" in capsys.readouterr().err
        assert main([*command, "--trust"]) == 0
        capsys.readouterr()
        forget(state)


def test_info_says_it_and_runs_nothing(
    own: Artifact, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> dict[str, object]:
        assert main(["info", str(own.path), "--json"]) == 0
        out = json.loads(capsys.readouterr().out)
        return {key: out[key] for key in ("runs_code", "trusted")}

    assert told() == {"runs_code": True, "trusted": True}
    forget(state)
    own.path.with_name("net.ran").unlink()
    assert told() == {"runs_code": True, "trusted": False}
    assert not own.path.with_name("net.ran").exists()
    assert main(["info", str(own.path)]) == 0
    assert "needs --trust" in " ".join(capsys.readouterr().out.split())
