"""Files and run folders that try to run code, write elsewhere, fill the memory or move the cursor.

Each is given to every command that would read it. Nothing of theirs may run, nothing outside the folder
may change, nothing of theirs may reach the terminal as a control character, and dlcli may not fail as by
a defect of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from forked import command
from onnx import TensorProto, helper
from PIL import Image

from dlcli.card import Card
from dlcli.formats.checkpoint import card_of, read_tensors, write_tensors

LIMIT_S = 60.0
ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m"
ARTIFACT = ("info", "eval", "export", "quantize", "prune", "benchmark")


@dataclass(frozen=True)
class Place:
    """Where a case is built: ``work``, with a run in it; ``outside``, which nothing may change."""

    work: Path
    outside: Path

    @property
    def canary(self) -> Path:
        """A file that code of the case would write."""
        return self.outside / "canary"

    @property
    def run(self) -> Path:
        return self.work / "runs" / "run"


class Runs:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.system, (f"touch {self.path}",))


Case = Callable[[Place], list[list[str]]]  # builds it; returns the command lines to try


def _commands(path: str) -> list[list[str]]:
    predict = ["predict", "-a", path, "0.png"]
    more = {"export": ["--format", "pth"], "prune": ["--amount", "0.5", "--epochs", "0"]}
    return [predict, *([name, path, *more.get(name, [])] for name in ARTIFACT)]


def _weights(path: str) -> list[str]:
    return ["train", "--model", "mlp", "--data", "digits", "--epochs", "1", "-q", "--weights", path]


def pickle_in_pth(place: Place) -> list[list[str]]:
    torch.save({"w": Runs(place.canary)}, place.work / "a.pth")
    return [*_commands("a.pth"), _weights("a.pth")]


def bare_pickle(place: Place) -> list[list[str]]:
    (place.work / "a.pth").write_bytes(pickle.dumps(Runs(place.canary)))
    return [*_commands("a.pth"), _weights("a.pth")]


def pickle_in_arrays(place: Place) -> list[list[str]]:
    objects = np.array([Runs(place.canary)] * 20, dtype=object)
    np.save(place.work / "a.npy", objects, allow_pickle=True)
    np.savez(place.work / "a.npz", X=objects, y=np.arange(20) % 2)
    names, train = ("a.npy", "a.npz"), ["train", "--model", "mlp", "--data"]
    return [*(["data", name] for name in names), *([*train, name] for name in names)]


def code_by_path(place: Place) -> list[list[str]]:
    """A card, a run's record and settings that name a file of code."""
    code = place.work / "evil.py"
    code.write_text(f"import os\nos.system('touch {place.canary}')\nclass Net: pass\n")
    card = card_of(place.run / "best.safetensors")
    named = card.model.model_copy(update={"name": f"{code}:Net"})
    _with_card(place.run / "best.safetensors", card.model_copy(update={"model": named}))
    _replace(place.run / "run.json", '"name": "mlp"', f'"name": "{code}:Net"')
    _replace(place.run / "config.yaml", "name: mlp", f"name: {code}:Net")
    force = ["train", "--resume", "run", "--epochs", "3", "--force"]
    return [*_commands("run"), force[:-1], force, ["train", "--config", "runs/run/config.yaml"]]


def yaml_tags(place: Place) -> list[list[str]]:
    tag = f'!!python/object/apply:os.system ["touch {place.canary}"]'
    (place.work / "a.yaml").write_text(f"optim:\n  lr: {tag}\n")
    _replace(place.run / "config.yaml", "  lr: 0.001", f"  lr: {tag}")
    train = ["train", "--model", "mlp", "--data", "digits"]
    return [
        [*train, "--config", "a.yaml"],
        [*train, "--set", f"optim.lr={tag}"],
        ["train", "--resume", "run"],
        ["runs", "run"],
    ]


def programs_of_others(place: Place) -> list[list[str]]:
    """TorchScript and exported programs that this user's dlcli did not write."""
    for name in ("torchscript", "pt2"):
        command(["export", "run", "--format", name, "-q"], place.work, place.work / "log")
    shutil.rmtree(os.environ["DLCLI_STATE"], ignore_errors=True)
    files = sorted((place.run).glob("best.[tp]*"))
    return [line for file in files for line in _commands(str(file)) if line[0] not in ("info",)]


def links_out(place: Place) -> list[list[str]]:
    """Parts of a run folder that are links to somewhere else."""
    for name in ("state", "plots"):
        shutil.rmtree(place.run / name, ignore_errors=True)
        (place.run / name).symlink_to(place.outside)
    (place.run / "metrics.jsonl").unlink()
    (place.run / "metrics.jsonl").symlink_to(place.outside / "precious")
    more = ["train", "--resume", "run", "--epochs", "3"]
    return [
        more,
        [*more, "--force"],
        ["eval", "run", "--worst", "3"],
        ["runs", "--delete", "run", "--yes"],
    ]


def linked_lock(place: Place) -> list[list[str]]:
    (place.run / "lock").unlink()
    os.link(place.outside / "precious", place.run / "lock")
    return [["train", "--resume", "run", "--epochs", "3"], ["runs", "--delete", "run", "--yes"]]


def external_data(place: Place) -> list[list[str]]:
    """ONNX files whose tensors are those of any other file."""
    os.link(place.outside / "precious", place.work / "linked")
    (place.work / "symbolic").symlink_to(place.outside / "precious")
    lines = []
    card = card_of(place.run / "best.safetensors")
    for number, location in enumerate(("../outside/precious", "linked", "symbolic", "/etc/passwd")):
        name = f"{number}.onnx"
        _write_onnx(place.work / name, card, location)
        lines += _commands(name)
    return lines


def bombs(place: Place) -> list[list[str]]:
    """Archives, arrays and tables of zeros."""
    for name, member in (("a.pth", "a/data.pkl"), ("b.npz", "X.npy")):
        with (
            zipfile.ZipFile(place.work / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open(member, "w", force_zip64=True) as file,
        ):
            for _ in range(2**10):
                file.write(bytes(2**20))
    return [*_commands("a.pth"), _weights("a.pth"), ["data", "b.npz"]]


def outside_members(place: Place) -> list[list[str]]:
    with zipfile.ZipFile(place.work / "a.pth", "w") as archive:
        for name in ("../outside/canary", f"{place.canary}", "a/data.pkl"):
            archive.writestr(name, b"\x80\x02}.")
    return [*_commands("a.pth"), _weights("a.pth")]


def escapes(place: Place) -> list[list[str]]:
    """Names with control characters: of a model, of classes, of columns and of files."""
    card = card_of(place.run / "best.safetensors")
    names = tuple(f"{ESCAPE}{name}" for name in card.task.class_names)
    task = card.task.model_copy(update={"class_names": names})
    _with_card(place.run / "best.safetensors", card.model_copy(update={"task": task}))
    named = card.model.model_copy(update={"name": ESCAPE})
    model = place.work / "m.safetensors"
    shutil.copy(place.run / "best.safetensors", model)
    _with_card(model, card.model_copy(update={"model": named}))
    rows = "".join(f"{i},{ESCAPE}{i % 2}\n" for i in range(40))
    table = f"{ESCAPE}.csv"
    (place.work / table).write_text(f"x{ESCAPE},label\n{rows}")
    return [
        *_commands("run"),
        *_commands("m.safetensors"),
        ["data", table],
        ["train", "--model", "mlp", "--data", table, "--target", "label", "--epochs", "1"],
        ["runs"],
    ]


CASES: tuple[Case, ...] = (
    *(pickle_in_pth, bare_pickle, pickle_in_arrays, code_by_path, yaml_tags, programs_of_others),
    *(links_out, linked_lock, external_data, bombs, outside_members, escapes),
)


def measure(folder: Path, trials: int, rng: random.Random) -> dict[str, Any]:
    """Build each case in a folder of its own, and run its commands; there is nothing random."""
    template = folder / "template"
    template.mkdir()
    train = ["train", "--model", "mlp", "--data", "digits", "--name", "run", "--epochs", "2", "-q"]
    code, printed = command(train, template, folder / "log")
    assert code == 0, printed
    failures: list[str] = []
    counts = {"cases": len(CASES), "commands": 0, "refused": 0}
    for case in CASES:
        place = Place(folder / case.__name__ / "work", folder / case.__name__ / "outside")
        shutil.copytree(template, place.work)
        place.outside.mkdir()
        (place.outside / "precious").write_bytes(bytes(range(256)) * 64)
        Image.new("L", (8, 8), 100).save(place.work / "0.png")
        lines = case(place)
        before = _snapshot(place.outside)
        for line in lines:
            began = time.monotonic()
            code, printed = command(line, place.work, folder / "log")
            counts["commands"] += 1
            counts["refused"] += code in (1, 2)
            for problem in _problems(place, before, code, printed, time.monotonic() - began):
                failures.append(
                    f"{case.__name__}: dlcli {' '.join(line)!r}: {problem}: {printed[-300:]!r}"
                )
        shutil.rmtree(folder / case.__name__)
    return {**counts, "failures": failures}


def _problems(
    place: Place, before: dict[str, str], code: int, printed: str, seconds: float
) -> Iterator[str]:
    if place.canary.exists():
        yield "its code ran"
        place.canary.unlink()
    if _snapshot(place.outside) != before:
        yield "something outside has changed"
    if code not in (0, 1, 2, 3):
        yield f"exit {code}"
    if any(not c.isprintable() and c not in "\n" for c in printed):
        yield "a control character was printed"
    if seconds > LIMIT_S:
        yield f"it took {seconds:.0f} s"


def _snapshot(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def _with_card(path: Path, card: Card) -> None:
    """Write a model file with another card and a digest that matches."""
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, {**metadata, "dlcli.card": card.to_json()})


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, (path, old)
    path.write_text(text.replace(old, new))
    if path.suffix == ".json":  # as somebody would write it who knows how dlcli works
        values = json.loads(path.read_text())
        values.pop("sha256", None)
        values.pop("settings", None)
        path.write_text(json.dumps(values))


def _write_onnx(path: Path, card: Card, location: str) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", 3]) for n in ("input", "logits"))
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 3])
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    graph = helper.make_graph([helper.make_node("MatMul", ["input", "w"], ["logits"])], "g", [x], [y])
    graph.initializer.append(weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.metadata_props.add(key="dlcli.card", value=card.to_json())
    path.write_bytes(model.SerializeToString())
    assert onnx.load(path, load_external_data=False).graph.initializer
