"""Weights in several files and their index: the tensors, in folders and zips; damaged ones."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_bert
import torch
from safetensors.torch import load_file, save_file

from dlcli.cli import main
from dlcli.config import ModelConfig
from dlcli.errors import DlcliError
from dlcli.formats.initial_weights import find_initial_weights
from dlcli.zoo.base import find_model
from dlcli.zoo.weights import read_state_dict

NAMES = ("model-00001-of-00003.safetensors", "model-2.safetensors", "model-00003-of-00003.safetensors")
INDEX = "model.safetensors.index.json"


def zipped(folder: Path, above: str = "name-main/") -> Path:
    path = folder.parent / "snapshot.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{above}{file.relative_to(folder).as_posix()}")
    return path


@pytest.mark.parametrize("container", ["folder", "index", "zip", "bin"])
def test_tensors_in_several_files_are_those_of_the_one(tmp_path: Path, container: str) -> None:
    folder = tiny_bert.write_snapshot(tmp_path / "s")
    expected = load_file(folder / "model.safetensors")
    places = tiny_bert.shard(folder, *NAMES)
    path = folder
    if container == "index":
        path = folder / INDEX
    elif container == "zip":
        path = zipped(folder)
        shutil.rmtree(folder)
    elif container == "bin":
        for name in NAMES:
            torch.save(load_file(folder / name), folder / name.replace("safetensors", "bin"))
            (folder / name).unlink()
        (folder / INDEX).unlink()
        places = {tensor: name.replace("safetensors", "bin") for tensor, name in places.items()}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    state = read_state_dict(path)
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("above", ["", "name-main/"])
@pytest.mark.parametrize("sharded", [False, True])
def test_an_encoder_begins_from_the_zip_of_a_snapshot(tmp_path: Path, sharded: bool, above: str) -> None:
    folder = tiny_bert.write_snapshot(tmp_path / "s")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    entry = find_model("bert", "text")

    def initial(path: Path) -> Any:
        return find_initial_weights(entry, ModelConfig(name="bert", weights=str(path)), [], offline=True)

    one = initial(folder)
    if sharded:
        tiny_bert.shard(folder, *NAMES)
    other = initial(zipped(folder, above))
    assert (one.args, one.text, one.args["pooling"]) == (other.args, other.text, "cls")
    assert all(torch.equal(tensor, other.state[name]) for name, tensor in one.state.items())
    assert other.source == str(tmp_path / "snapshot.zip")


def test_a_run_from_the_zip_of_a_sharded_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny_bert.write_snapshot(tmp_path / "s")
    tiny_bert.shard(folder, *NAMES)
    data = tiny_bert.write_questions(tmp_path / "q.csv")
    train = ["train", "-m", "bert", "-d", str(data), "--device", "cpu", "-e", "1", "-q"]
    assert main([*train, "--weights", str(zipped(folder)), "--lora", "2"]) == 0
    (folder / "tokenizer.json").unlink()
    assert main([*train, "--weights", str(zipped(folder))]) == 1
    assert f"{tmp_path / 'snapshot.zip'} has no tokenizer.json" in capsys.readouterr().err


Places = dict[str, str]


def _drop(folder: Path, places: Places) -> None:
    (folder / NAMES[1]).unlink()


def _cut(folder: Path, places: Places) -> None:
    content = (folder / NAMES[1]).read_bytes()
    (folder / NAMES[1]).write_bytes(content[: len(content) // 2])


def _wrong_shard(folder: Path, places: Places) -> None:
    tensor = next(tensor for tensor, name in places.items() if name == NAMES[0])
    tiny_bert.write_index(folder, {**places, tensor: NAMES[2]})


def _twice(folder: Path, places: Places) -> None:
    one, other = load_file(folder / NAMES[0]), load_file(folder / NAMES[2])
    save_file({**one, **other}, folder / NAMES[2])


def _elsewhere(folder: Path, places: Places) -> None:
    tiny_bert.write_index(folder, dict.fromkeys(places, f"../{NAMES[0]}"))


def _no_map(folder: Path, places: Places) -> None:
    tiny_bert.write_index(folder, ["model.safetensors"])


def _no_json(folder: Path, places: Places) -> None:
    (folder / INDEX).write_text("{")


DAMAGE: list[tuple[Callable[[Path, Places], None], str]] = [
    (_drop, rf"{INDEX} names 3 files of weights, and 1 of them is missing: {NAMES[1]}"),
    (_cut, rf"{NAMES[1]} is damaged or not a safetensors file"),
    (_wrong_shard, rf"{INDEX} lists bert\..* in {NAMES[2]}, which does not have it"),
    (_twice, rf"{INDEX} names two files with the tensor bert\..*, one of them {NAMES[2]}"),
    (_elsewhere, rf"{INDEX} is damaged: it places .* in '\.\./.*, which is no file next to it"),
    (_no_map, rf"{INDEX} is damaged: it has no weight_map"),
    (_no_json, rf"{INDEX} is damaged"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
@pytest.mark.parametrize("container", ["folder", "zip"])
def test_what_is_wrong_with_a_snapshot_of_several_files_is_named(
    tmp_path: Path, damage: Callable[[Path, Places], None], message: str, container: str
) -> None:
    path = folder = tiny_bert.write_snapshot(tmp_path / "s")
    damage(folder, tiny_bert.shard(folder, *NAMES))
    if container == "zip":
        path = zipped(folder)
    with pytest.raises(DlcliError, match=message) as info:
        read_state_dict(path)
    assert str(path) in info.value.message
    assert "download" in str(info.value.hint)
    with pytest.raises(DlcliError, match=message):
        find_model("bert", "text").snapshot(folder)  # type: ignore[misc]
