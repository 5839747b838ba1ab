"""A format whose models are folders: found, measured, published and trusted as files are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.benchmark.run import artifacts_of
from dlcli.card import Card, ModelSpec
from dlcli.config import ExportConfig, ExportSettings, MeasureConfig
from dlcli.data.prepare import random_inputs
from dlcli.deploy.export import check_target, export
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime, open_artifact, recognize
from dlcli.formats.checkpoint import build_checkpoint, read_tensors, save_model, write_tensors
from dlcli.formats.publish import move
from dlcli.runs.folder import RunFolder, find_artifact
from dlcli.task import NumberColumn, TabularInput, TargetNumber, TaskSpec
from dlcli.zoo.base import build_model

TASK = TaskSpec(
    kind="regression",
    input=TabularInput(numbers=(NumberColumn(name="a"), NumberColumn(name="b"))),
    targets=(TargetNumber(name="y"),),
)
CARD = Card(model=ModelSpec(name="linear"), task=TASK)
SETTINGS = ExportSettings(measure=MeasureConfig(latency=False))


def write(source: Artifact, path: Path, config: ExportConfig) -> None:
    (path / "data").mkdir(parents=True)
    (path / "card.json").write_text(source.card.to_json())
    write_tensors(path / "data" / "weights", source.module().state_dict(), {})


def read_card(path: Path) -> Card:
    return Card.from_json((path / "card.json").read_text(), source=path)


def open_folder(file: ModelFile, runtime: Runtime) -> Artifact:
    return build_checkpoint(file, read_tensors(file.path / "data" / "weights")[0], runtime)


FOLDER = Format(
    name="toy",
    suffix=".toy",
    sniff=lambda path: (path / "card.json").is_file(),
    read_card=read_card,
    open=open_folder,
    write=write,
    folder=True,
    runs_code=True,
)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    FORMATS.names()  # discovers, before another one is added
    monkeypatch.setitem(FORMATS._entries, FOLDER.name, FOLDER)
    torch.manual_seed(0)
    save_model(tmp_path / "best.safetensors", build_model(CARD.model, TASK), CARD)
    return tmp_path / "best.safetensors"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_exported_opened_and_replaced(model: Path) -> None:
    target = model.with_name("best.toy")
    check_target(model, target, FOLDER)
    for _ in range(2):
        result = export(model, target, FOLDER, SETTINGS, verify=True)
    check_target(model, target, FOLDER)
    assert result.ok
    assert names(model.parent) == ["best.safetensors", "best.toy"]
    opened = open_artifact(target, device="cpu")
    assert opened.format is FOLDER
    files = [target / "card.json", target / "data" / "weights"]
    assert list(opened.file.files) == files
    assert opened.size == result.output_bytes == sum(path.stat().st_size for path in files)
    inputs = random_inputs(TASK, 5)
    before = open_artifact(model, device="cpu")
    assert (opened.predict(inputs) == before.predict(inputs)).all()
    assert find_artifact(str(target), model.parent) == target
    assert artifacts_of(RunFolder(model.parent)) == [model, target]


def test_a_folder_is_not_written_over_something_else(model: Path) -> None:
    target = model.with_name("best.toy")
    target.mkdir()
    (target / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="is no toy file of dlcli's"):
        check_target(model, target, FOLDER)
    with pytest.raises(UsageError, match="is a folder"):
        check_target(model, target, FORMATS.get("pth"))
    with pytest.raises(DlcliError, match="is not a model file that dlcli reads"):
        recognize(target)


def test_a_folder_that_misses_a_bound_is_kept_whole(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(source: Artifact, path: Path, config: ExportConfig) -> None:
        module: Any = source.module()
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(1.0)
        write(source, path, config)
        with torch.no_grad():
            for weight in module.parameters():
                weight.sub_(1.0)

    entry = Format(**{**vars(FOLDER), "write": other})
    result = export(model, model.with_name("best.toy"), entry, SETTINGS, verify=True)
    assert not result.ok
    assert names(model.parent) == ["best.safetensors", "best.toy.failed"]
    assert names(result.output) == ["card.json", "data"]


def test_every_file_of_a_folder_is_trusted_by_its_digest(model: Path, tmp_path: Path) -> None:
    target = model.with_name("best.toy")
    export(model, target, FOLDER, SETTINGS, verify=True)
    moved = move(recognize(target), tmp_path / "elsewhere.toy")
    open_artifact(moved, device="cpu")
    card = moved.path / "card.json"
    card.write_text(card.read_text() + " ")
    with pytest.raises(DlcliError, match="a toy file can run code when it is loaded"):
        open_artifact(moved.path, device="cpu")
    open_artifact(moved.path, device="cpu", trust=True)
    open_artifact(moved.path, device="cpu")


def test_the_digest_of_a_folder_is_over_names_and_contents(model: Path) -> None:
    target = model.with_name("best.toy")
    export(model, target, FOLDER, SETTINGS, verify=False)
    total = hashlib.sha256()
    for name in ("card.json", "data/weights"):
        digest = hashlib.sha256((target / name).read_bytes()).hexdigest()
        total.update(f"{name}\0{digest}\n".encode())
    assert recognize(target).sha256 == total.hexdigest()
