"""A tutorial's data sets, written as a user would, through train, eval, predict, export and resume."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError
from dlcli.events import Event, StepDone, ignore
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.distributed.world import ALONE
from dlcli.training.loop.batch_plan import BatchPlan
from dlcli.training.loop.loader import TrainBatches
from dlcli.training.loop.state import load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run
from dlcli.training.readers import make_readers
from dlcli.trust import allowing

FIT = ["--set", "fit.log_every=0", "--epochs", "2", "--batch-size", "8", "--device", "cpu"]

CODE = '''
import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset


class FashionLike(Dataset):
    """Grey images in memory, as floats after ToTensor and Normalize."""

    classes = ["shirt", "shoe", "bag"]

    def __init__(self, train=True, transform=None):
        rng = np.random.default_rng(0 if train else 1)
        self.labels = torch.arange(36 if train else 12) % 3
        self.images = rng.integers(0, 256, (len(self.labels), 9, 9)).astype(np.uint8)
        self.images[:, :, 0] = 80 * self.labels[:, None]
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = torch.from_numpy(self.images[index]).float()[None] / 255
        image = (image - 0.2860) / 0.3530
        if self.transform:
            image = self.transform(image)
        return image, self.labels[index]


def fashion():
    return {"train": FashionLike(), "test": FashionLike(train=False)}


class Table(Dataset):
    columns = ["a", "b", "c"]

    def __init__(self, path):
        with open(path, newline="") as file:
            rows = [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]
        self.rows = torch.tensor(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index, :-1], self.rows[index, -1]


class Folder(Dataset):
    def __init__(self, root):
        self.files = sorted(Path(root).rglob("*.png"))
        self.classes = sorted({file.parent.name for file in self.files})

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        file = self.files[index]
        return Image.open(file).convert("RGB"), self.classes.index(file.parent.name)


class Reviews(Dataset):
    def __len__(self):
        return 36

    def __getitem__(self, index):
        word = ("awful", "great")[index % 2]
        return {"text": f"a {word} film, take {index % 5}", "label": index % 2}
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mydata.py").write_text(CODE)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 3)).round(3)
    lines = ["a,b,c,y", *(",".join(map(str, (*row, row.sum().round(3)))) for row in rows)]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    from PIL import Image

    for i in range(24):
        folder = tmp_path / "imgs" / ("cold", "warm")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        colour = (30, 30, 200) if i % 2 == 0 else (200, 30, 30)
        Image.new("RGB", (12 + i % 3, 12), colour).save(folder / f"{i}.png")
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    exit_code = main([*args, "--json"])
    out = capsys.readouterr()
    assert exit_code == code, out.err
    return json.loads(out.out) if out.out else out.err


# --data, its arguments, the model, a metric, an argument of predict and what it writes.
CASES: dict[str, tuple[str, dict[str, str], str, str, str, str]] = {
    "images": ("fashion", {}, "cnn", "accuracy", "imgs/cold/0.png", "label"),
    "csv": ("Table", {"path": "rows.csv"}, "mlp", "rmse", "rows.csv", "value"),
    "folder": ("Folder", {"root": "imgs"}, "cnn", "accuracy", "imgs/warm/1.png", "label"),
    "texts": ("Reviews", {}, "lstm", "accuracy", "a great film", "label"),
}


@pytest.mark.parametrize(("name", "args", "model", "metric", "given", "key"), CASES.values(), ids=CASES)
def test_train_eval_predict_and_export(
    name: str,
    args: dict[str, str],
    model: str,
    metric: str,
    given: str,
    key: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sets = [item for key, value in args.items() for item in ("--set", f"data.args.{key}={value}")]
    trained = call(capsys, "train", "--data", f"mydata.py:{name}", "--model", model, *sets, *FIT)
    assert all(key in row for row in call(capsys, "predict", given)["predictions"])
    artifact = str(here / trained["artifact"])
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    evaluated = call(capsys, "eval", artifact)
    assert np.isfinite(evaluated["metrics"][metric])
    exported = call(capsys, "export", artifact, "--onnx", "--no-latency")
    assert exported["parity"]["ok"]
    again = call(capsys, "eval", exported["output"], "--data", f"{here}/mydata.py:{name}")
    assert again["samples"] >= evaluated["samples"]


TWO = """

class ImageAndColumns(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (8, 6, 3), generator=generator).to(torch.uint8)
        columns = torch.randn(4, generator=generator)
        columns[0] = float("nan") if index == 3 else columns[0]
        return {"image": image, "columns": columns, "target": index % 2}


class Both(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.linear = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(8, num_classes)

    def forward(self, image, columns):
        seen = torch.relu(self.conv(image)).mean((2, 3))
        return self.head(torch.cat([seen, torch.relu(self.linear(columns))], 1))


class Swapped(Both):
    def forward(self, columns, image):
        return super().forward(image, columns)
"""


def test_a_model_of_several_inputs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (here / "mydata.py").open("a") as file:
        file.write(TWO)
    flags = ["--data", "mydata.py:ImageAndColumns", *FIT]
    trained = call(capsys, "train", *flags, "--model", "mydata.py:Both")
    assert "NaN" in str(trained["bad_samples"])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3)).astype(np.uint8)
    np.savez(here / "some.npz", image=pixels, columns=np.ones((3, 4)))
    exported = call(capsys, "export", "--onnx", "--no-latency")
    assert exported["parity"]["ok"]
    onnx = exported["output"]
    model, file = (
        call(capsys, "predict", "-a", path, "some.npz")["predictions"]
        for path in (trained["artifact"], onnx)
    )
    assert [row["label"] for row in model] == [row["label"] for row in file]
    assert call(capsys, "eval", onnx)["metrics"].keys() == call(capsys, "eval")["metrics"].keys()
    np.savez(here / "other.npz", image=pixels)
    assert "no array 'columns'" in call(capsys, "predict", "other.npz", code=1)
    swapped = call(capsys, "train", *flags, "--model", "mydata.py:Swapped", code=1)
    assert "takes columns, image, and the data gives image, columns" in swapped


def test_the_code_of_a_stranger_needs_trust(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    trained = call(capsys, "train", "--data", "mydata.py:Reviews", "--model", "lstm", *FIT)
    monkeypatch.setenv("DLCLI_STATE", str(tmp_path_factory.mktemp("stranger")))
    assert "has not run this code before" in call(capsys, "eval", trained["artifact"], code=1)
    call(capsys, "eval", trained["artifact"], "--trust")
    call(capsys, "eval", trained["artifact"])


def stop_after(steps: int) -> Any:
    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    return emit


def check_exact_resume(folder: Path, settings: dict[str, Any]) -> None:
    """A run that is stopped in each of its epochs and resumed ends with the bits of one that is not."""
    config = merge({"fit": {"epochs": 2, "batch_size": 8, "device": "cpu", "log_every": 0}}, settings)
    with allowing(config["data"]["data"]):
        plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, config)))
        whole = training.new_run(prepare_run(plan), folder, "whole")
        training.train(prepare_run(plan), whole, ignore, state=None)
        for steps in (2, 5):
            run = training.new_run(prepare_run(plan), folder, f"stopped-{steps}")
            training.train(prepare_run(plan), run, stop_after(steps), state=None)
            state, _ = load_newest(run.state)
            resumed = prepare_run(read_plan(read_run(run), fresh=state is None))
            training.train(resumed, run, ignore, state=state)
            one, other = load_file(whole.best), load_file(run.best)
            for key in one:
                assert np.array_equal(one[key], other[key]), key


def test_a_stopped_run_ends_with_the_same_bits(here: Path) -> None:
    settings = {
        "data": {"data": f"{here}/mydata.py:Table", "args": {"path": f"{here}/rows.csv"}},
        "model": {"name": "mlp"},
    }
    check_exact_resume(here, settings)


def test_a_stopped_run_of_several_inputs_ends_with_the_same_bits(here: Path) -> None:
    with (here / "mydata.py").open("a") as file:
        file.write(TWO)
    name = f"{here}/mydata.py"
    with allowing(f"{name}:Both"):
        check_exact_resume(
            here, {"data": {"data": f"{name}:ImageAndColumns"}, "model": {"name": f"{name}:Both"}}
        )


RANDOM = """

def turned(image):
    return image.flip(2) if torch.rand(()) < 0.5 else image


def fashion_at_random():
    return {"train": FashionLike(transform=turned), "val": FashionLike(train=False, transform=turned)}


class NoisyRows(Table):
    def __getitem__(self, index):
        row, target = super().__getitem__(index)
        return row + torch.from_numpy(np.random.normal(0, 0.1, 3)).float(), target
"""


def test_a_stopped_run_of_random_samples_ends_with_the_same_bits(here: Path) -> None:
    with (here / "mydata.py").open("a") as file:
        file.write(RANDOM)
    settings = {
        "data": {"data": f"{here}/mydata.py:fashion_at_random"},
        "model": {"name": "cnn", "args": {"dropout": 0.2}},
    }
    check_exact_resume(here, settings)


def train_batches(name: str, **settings: Any) -> Any:
    """The training batches of a plan, as the loop takes them."""
    config = merge(
        {"fit": {"epochs": 2, "batch_size": 8, "device": "cpu"}, "data": {"data": name}}, settings
    )
    with allowing(name):
        plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, config)))
    reader = make_readers(plan, ALONE)["train"]
    return plan, TrainBatches(reader, BatchPlan(8), seed=3, device=torch.device("cpu"))


def test_random_samples_are_functions_of_seed_epoch_and_sample(here: Path) -> None:
    with (here / "mydata.py").open("a") as file:
        file.write(RANDOM)
    args = {"path": f"{here}/rows.csv"}
    plan, batches = train_batches(
        f"{here}/mydata.py:NoisyRows", data={"args": args}, model={"name": "mlp"}
    )
    assert any("samples draw random numbers" in note for note in plan.notes)

    def rows(epoch: int, start: int = 0) -> dict[int, list[float]]:
        batches_of_epoch = batches.epoch(epoch, start=start)
        return {
            index: row
            for batch in batches_of_epoch
            for index, row in zip(batch.indices.tolist(), batch.inputs[0].tolist(), strict=True)
        }

    torch.manual_seed(0)
    first = rows(0)
    torch.manual_seed(1)
    assert rows(0) == first
    assert rows(0, start=2).items() < first.items()
    other = rows(1)
    assert other.keys() == first.keys()
    assert all(other[index] != first[index] for index in first)
    reader = batches.reader
    once, _ = reader.read(np.arange(4))
    again, _ = reader.read(np.arange(4))
    np.testing.assert_array_equal(once[0], again[0])  # the first reading


def test_a_random_sample_that_fails_in_training_is_left_out_and_counted(here: Path) -> None:
    with (here / "mydata.py").open("a") as file:
        file.write(RANDOM)
        file.write(
            "\nclass Flaky(NoisyRows):\n    calls = dict.fromkeys(range(40), 0)\n"
            "    def __getitem__(self, index):\n        self.calls[index] += 1\n"
            "        if index % 3 == 0 and self.calls[index] > 3: raise OSError('worn out')\n"
            "        return super().__getitem__(index)\n"
        )
    args = {"path": f"{here}/rows.csv"}
    _, batches = train_batches(
        f"{here}/mydata.py:Flaky", data={"args": args, "val_fraction": 0.05}, model={"name": "mlp"}
    )
    for epoch in range(4):
        seen = [index for batch in batches.epoch(epoch) for index in batch.indices.tolist()]
    assert len(seen) < len(batches.reader)
    assert all("worn out" in reason for reason in batches.reader.bad.values())


def test_a_target_may_not_be_random(here: Path) -> None:
    with (here / "mydata.py").open("a") as file:
        file.write(RANDOM)
        file.write(
            "\nclass Turns(FashionLike):\n    def __getitem__(self, index):\n"
            "        turns = int(torch.randint(3, ()))\n"
            "        return torch.rot90(super().__getitem__(index)[0], turns, (1, 2)), turns\n"
        )
    _, batches = train_batches(f"{here}/mydata.py:Turns", model={"name": "cnn"})
    with pytest.raises(DlcliError, match=r"the target of sample .* differs from reading to reading"):
        list(batches.epoch(0))
