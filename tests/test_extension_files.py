"""A named set, a format, an encoding, a command, a sink and a cause are one new file each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from package_copy import PackageCopy

NAMED_SET = '''
"""Two clouds of points."""

import numpy as np

from dlcli.data.base import Samples, fingerprint
from dlcli.data.kinds import DataListing
from dlcli.data.sets.named import DATASETS, NamedSet
from dlcli.data.tables.rows import TableRows


def read(root):
    import polars as pl

    labels = np.arange(120) % 2
    values = np.random.default_rng(0).normal(size=(120, 2)) + 3 * labels[:, None]
    samples = Samples(
        ids=tuple(f"all/{i}" for i in range(120)),
        targets=labels,
        items=TableRows(pl.DataFrame(values, schema=["x", "y"], orient="row")),
    )
    return DataListing(
        splits={"all": samples},
        fingerprint=fingerprint([values.tobytes()]),
        class_names=("left", "right"),
        target_names=("side",),
        name="clouds",
    )


DATASETS.register("clouds")(
    NamedSet(read=read, kind="tabular")
)
'''
FORMAT = '''
"""A model as four letters, the length of its card, the card, and its tensors."""

import struct

from safetensors.torch import load, save

from dlcli.card import Card
from dlcli.files import write_bytes
from dlcli.formats.base import FORMATS, Artifact, Format, head_of
from dlcli.zoo.base import build_model
from dlcli.zoo.device import resolve_device
from dlcli.zoo.forward import load_tensors, place, predict


def parts(path):
    data = path.read_bytes()
    end = 8 + struct.unpack("<I", data[4:8])[0]
    return data[8:end].decode(), data[end:]


class ToyArtifact(Artifact):
    def __init__(self, file, runtime):
        super().__init__(file, file.card)
        self.device = resolve_device(runtime.device)
        module = build_model(self.card.model, self.card.task, self.card.transforms)
        load_tensors(module, load(parts(file.path)[1]))
        self.net = place(module.eval(), self.device)

    def predict(self, inputs):
        return predict(self.net, inputs, self.card.task, self.device)


def write(source, path, config):
    card = source.card.to_json().encode()
    tensors = {name: tensor.contiguous() for name, tensor in source.module().state_dict().items()}
    write_bytes(path, b"TOYS" + struct.pack("<I", len(card)) + card + save(tensors))


FORMATS.register("toys")(
    Format(
        name="toys",
        suffix=".toys",
        sniff=lambda path: head_of(path, 4) == b"TOYS",
        read_card=lambda path: Card.from_json(parts(path)[0], source=path),
        open=ToyArtifact,
        write=write,
    )
)
'''
ENCODING = '''
"""Tensors stored as their negatives."""

from dlcli.formats.encodings.base import ENCODINGS, Encoding


def negative(tensors, args):
    return {name: -tensor for name, tensor in tensors.items()}


ENCODINGS.register("negative")(Encoding(encode=negative, decode=negative))
'''
COMMAND = '''
"""``dlcli hello``."""

from typing import Annotated

import typer


def command(name: Annotated[str, typer.Option("--name", help="Who is greeted.")] = "world") -> None:
    """Greet somebody.

    Nothing else.
    """
    typer.echo(f"hello {name}")
'''
SINK = '''
"""The number of steps, in a file."""

from contextlib import contextmanager

from dlcli.events import StepDone
from dlcli.ui.progress.run_sinks import register_sink


@register_sink("steps")
@contextmanager
def steps(run, emit):
    def sink(event):
        if isinstance(event, StepDone):
            (run.path / "steps.txt").write_text(str(event.step))

    yield sink
'''
CAUSE = '''
"""A cause of one site."""

from dlcli.machine.causes.base import Cause, register_cause


@register_cause("login-node")
def login_node(facts):
    """No training on the login node."""
    yield Cause("system", "warning", "this is the login node", facts.platform, "srun --pty bash")
'''
FILES = {
    "machine/causes/site.py": CAUSE,
    "data/sets/clouds.py": NAMED_SET,
    "formats/toys.py": FORMAT,
    "formats/encodings/negative.py": ENCODING,
    "commands/hello.py": COMMAND,
    "ui/progress/steps.py": SINK,
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> PackageCopy:
    return PackageCopy(tmp_path_factory.mktemp("extended"), FILES)


@pytest.fixture(scope="module")
def folder(copy: PackageCopy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a model was trained on the new set, with the new sink, and exported to the new format."""
    here = tmp_path_factory.mktemp("here")
    train = (
        "train",
        "-m",
        "mlp",
        "-d",
        "clouds",
        "-e",
        "2",
        "--device",
        "cpu",
        "--set",
        "fit.log_every=0",
    )
    results = copy.run(
        (*train, "--set", "fit.sinks=[steps]", "--name", "a", "--json"),
        ("export", "a", "--format", "toys", "--json"),
        cwd=here,
    )
    assert [result.code for result in results] == [0, 0], [result.err for result in results]
    return here


def test_a_set_trains_by_its_name_and_a_sink_gets_the_events(folder: Path) -> None:
    run = json.loads((folder / "runs/a/run.json").read_text())
    assert int((folder / "runs/a/steps.txt").read_text()) > 0
    assert "clouds" in json.dumps(run)


def test_a_format_is_written_recognised_measured_and_timed(copy: PackageCopy, folder: Path) -> None:
    exported = str(folder / "runs/a/best.toys")
    results = copy.run(
        ("info", exported, "--json"),
        ("eval", "a", "--json"),
        ("eval", exported, "--json"),
        ("benchmark", exported, "--batch-sizes", "1", "--json"),
        cwd=folder,
    )
    assert [result.code for result in results] == [0, 0, 0, 0], [result.err for result in results]
    info, ours, theirs, timed = (json.loads(result.out) for result in results)
    assert info["format"] == "toys"
    assert theirs["metrics"] == ours["metrics"]
    assert timed["rows"][0]["format"] == "toys"


def test_a_command_is_listed_with_its_summary_and_runs(copy: PackageCopy, folder: Path) -> None:
    listing, page, done = copy.run(
        ("--help",), ("hello", "--help"), ("hello", "--name", "you"), cwd=folder
    )
    assert "Greet somebody." in listing.out
    assert "Nothing else." in page.out
    assert (done.code, done.out) == (0, "hello you\n")


def test_a_cause_is_named_with_its_command(copy: PackageCopy, folder: Path) -> None:
    screen, reply = copy.run(("info", "--quick"), ("info", "--quick", "--json"), cwd=folder)
    assert "warning: this is the login node" in screen.out
    assert "$ srun --pty bash" in screen.out
    assert "login-node" in [cause["code"] for cause in json.loads(reply.out)["causes"]]


def test_an_unknown_sink_is_refused_with_the_known_ones(copy: PackageCopy, folder: Path) -> None:
    (done,) = copy.run(("train", "-m", "mlp", "-d", "clouds", "--set", "fit.sinks=[step]"), cwd=folder)
    assert done.code == 2
    assert "unknown sink" in done.err
    assert "steps" in done.err


def test_an_encoding_is_found_by_its_name(copy: PackageCopy) -> None:
    code = (
        "import torch; from dlcli.card import TransformRecord;"
        "from dlcli.formats.encodings.base import decode, encode;"
        "records = (TransformRecord(kind='negative'),);"
        "stored = encode({'a': torch.ones(2)}, records);"
        "print(stored['a'].tolist(), decode(stored, records)['a'].tolist())"
    )
    assert copy.python(code).split() == ["[-1.0,", "-1.0]", "[1.0,", "1.0]"]
