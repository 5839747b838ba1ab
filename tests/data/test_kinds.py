"""A kind of data is one folder: a toy one, added to a copy of the package, works in every command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from package_copy import PackageCopy

from dlcli.task import TaskSpec

INPUT = '''
"""Points in the plane: what a model takes."""

from typing import Literal

from dlcli.task import InputSpec, TensorSpec


class PointsInput(InputSpec):
    """Points (N, 2), divided by ``scale``."""

    kind: Literal["points"] = "points"
    count: int
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return (self.count, 2)

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("points", "float32", ("batch", *self.shape)),)
'''

KIND = '''
"""Lines of a .points file: a label, then x and y of each point."""

from pathlib import Path

import numpy as np

from dlcli.data.base import ArrayReader, Samples, Stacked, fingerprint
from dlcli.data.kinds import KINDS, DataKind, DataListing, Description
from dlcli.data.points.spec import PointsInput
from dlcli.data.scales import make_task


def rows_of(path):
    return [line.split() for line in Path(path).read_text().splitlines()]


def stacked(rows):
    return Stacked(np.array([[float(x) for x in row[1:]] for row in rows]).reshape(len(rows), -1, 2))


def read(path, config, other):
    rows = rows_of(path)
    names = sorted({row[0] for row in rows})
    samples = Samples(
        tuple(map(str, range(len(rows)))),
        np.array([names.index(row[0]) for row in rows], dtype=np.int64),
        stacked(rows),
    )
    return DataListing(
        splits={"all": samples}, fingerprint=fingerprint([path.read_bytes()]), class_names=tuple(names)
    )


def fit(source, config, needs):
    points = source.splits["train"].items.values
    spec = PointsInput(count=points.shape[1], scale=float(np.abs(points).max()))
    return make_task(source, spec, config.model), []


def reader(samples, task, options):
    return ArrayReader(samples, ((samples.items.values / task.input.scale).astype(np.float32),))


def inputs(arguments, task):
    rows = [row for path in arguments for row in rows_of(path)]
    return Samples(tuple(map(str, range(len(rows)))), np.zeros(0, dtype=np.int64), stacked(rows))


KINDS.register("points")(
    DataKind(
        name="points",
        recognises=lambda path, config: path.suffix == ".points",
        read=read,
        fit=fit,
        reader=reader,
        inputs=inputs,
        reference_input=lambda needs: PointsInput(count=4, scale=1.0),
        reference_words="4 points",
        noise=lambda spec, count, length, rng: (
            rng.normal(size=(count, *spec.shape)).astype(np.float32),
        ),
        describe=lambda spec: Description((("points", f"{spec.count} of 2 coordinates"),)),
        size_words="{} (points, coordinates)",
        order=5,
    )
)
'''

MODEL = '''
"""A linear layer on points."""

import math

from torch import nn

from dlcli.zoo.base import ModelEntry, register


class Flat(nn.Module):
    def __init__(self, task):
        super().__init__()
        self.head = nn.Linear(math.prod(task.input.shape), task.num_outputs)

    def forward(self, points):
        return self.head(points.flatten(1))


register(
    ModelEntry(
        name="flat",
        kind="points",
        build=lambda task, args: Flat(task),
        head=lambda module: "head",
        recipe={"optim": {"lr": 0.05}, "fit": {"epochs": 3, "batch_size": 16}},
        summary="a linear layer on all coordinates",
    )
)
'''

FILES = {
    "data/points/__init__.py": '"""Points in the plane."""\n',
    "data/points/spec.py": INPUT,
    "data/points/kind.py": KIND,
    "zoo/flat.py": MODEL,
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> PackageCopy:
    return PackageCopy(tmp_path_factory.mktemp("copy"), FILES)


def write_points(path: Path, count: int = 80) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        points = rng.normal(size=8) + (2 if i % 2 else -2)
        lines.append(" ".join([("left", "right")[i % 2], *(f"{value:.3f}" for value in points)]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_kind_in_a_folder_of_its_own_works_in_every_command(copy: PackageCopy, tmp_path: Path) -> None:
    data = str(write_points(tmp_path / "some.points"))
    best, onnx = "runs/toy/best.safetensors", "runs/toy/best.onnx"
    results = copy.run(
        ["models", "--json"],
        ["models", "--kind", "points"],
        ["models", "flat"],
        ["data", data, "--json", "--no-plots"],
        ["train", "--data", data, "--model", "flat", "--name", "toy", "--quiet"],
        ["info", best],
        ["eval", best, "--json"],
        ["eval", best, "--data", data, "--split", "all", "--json"],
        ["predict", best, data, "--json"],
        ["export", best, "--onnx", "--no-latency"],
        ["info", onnx],
        ["eval", onnx, "--json"],
        ["benchmark", best, onnx, "--json", "--batch-sizes", "2", "--seconds", "0.05"],
        cwd=tmp_path,
    )
    for result in results:
        assert result.code == 0, result.err + result.out
    models, listed, shown, checked, _, info, own, whole, predicted, _, about, exported, timed = results
    assert "points" in {row["kind"] for row in json.loads(models.out)["models"]}
    assert "4 points" in listed.out
    assert "points" in shown.out
    assert json.loads(checked.out)["kind"] == "points"
    assert "4 of 2 coordinates" in info.out
    assert "4 of 2 coordinates" in about.out
    assert json.loads(own.out)["metrics"]["accuracy"] > 0.9
    assert json.loads(whole.out)["samples"] == 80
    assert len(json.loads(predicted.out)["predictions"]) == 80
    assert json.loads(exported.out)["metrics"]["accuracy"] == json.loads(own.out)["metrics"]["accuracy"]
    assert json.loads(timed.out)["command"] == "benchmark"


def test_a_card_of_that_kind_is_read_without_torch(copy: PackageCopy) -> None:
    code = (
        "import sys\n"
        "from dlcli.task import TaskSpec\n"
        "fields = {'input': {'kind': 'points', 'count': 3, 'scale': 2.0}, 'class_names': ['a', 'b']}\n"
        "task = TaskSpec.model_validate(fields)\n"
        "again = TaskSpec.model_validate_json(task.model_dump_json())\n"
        "print(again == task, type(task.input).__name__, 'torch' in sys.modules)\n"
    )
    assert copy.python(code).split() == ["True", "PointsInput", "False"]


@pytest.mark.parametrize("kind", ["nonsense", 3, None])
def test_an_input_of_no_known_kind_is_refused(kind: object) -> None:
    with pytest.raises(ValueError, match="kind"):
        TaskSpec.model_validate({"input": {"kind": kind}, "class_names": ["a", "b"]})
