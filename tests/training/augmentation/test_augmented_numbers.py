"""The user's own augmentation of series, rows and tensors: their form, chance, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny_data import write_houses, write_waves
from training_runs import train_run

from dlcli.cli import main
from dlcli.config import AugmentConfig
from dlcli.data.tensors.spec import TensorInput, TensorPart
from dlcli.errors import DlcliError, UsageError
from dlcli.events import EpochDone, Event
from dlcli.task import InputSpec
from dlcli.training.augmentation.augment import Augment, make_augment

Write = Callable[..., str]
Inputs = tuple[torch.Tensor, ...]
N, CPU = 6, torch.device("cpu")
INDICES = np.arange(N)
LENGTHS = torch.tensor([12, 3, 7, 1, 12, 5])

CODE = """
import random
import numpy as np
import torch

def jitter(*tensors, std=0.5):
    scale = 1 + 0.1 * random.random() + 0.1 * np.random.random()
    new = tuple(x * scale + std * torch.randn_like(x) for x in tensors)
    return new if len(new) > 1 else new[0]

def one(x):
    return x + 1

def two(plane, line):
    return plane + 1, line + 1

def together(x):
    return x + len(x)
together.batched = True

shapes = []

def shape(x):
    shapes.append(tuple(x.shape))
    assert x.dtype == torch.float32
    x.zero_()  # its own copy
    return x
"""
PARTS = tuple(
    TensorPart(name=name, dtype=dtype, shape=shape, low=0, high=4)
    for name, dtype, shape in (
        ("plane", "float32", (3, 4)), ("codes", "int64", (2,)), ("line", "float32", ()),
    )
)  # fmt: skip
SPECS: dict[str, InputSpec] = {
    "series": tiny.series(),
    "lengths": tiny.series(varies=True),
    "table": tiny.table(indicators=["a"]),
    "tensor": TensorInput(tensors=PARTS),
}
# How many of the numbers of the last dimension an augmentation gets: of a row, those of "a" and "b".
WIDTHS = {"table": 2}

pytestmark = pytest.mark.usefixtures("trusted")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, code: str = CODE) -> str:
        path = tmp_path / "aug.py"
        path.write_text(code)
        return f"{path}:{name}"

    return write


def inputs_of(kind: str) -> Inputs:
    """The inputs of six samples, those of "lengths" 0 after their end."""
    generator = torch.Generator().manual_seed(0)
    if kind == "tensor":
        codes = torch.randint(5, (N, 2), generator=generator)
        return torch.randn(N, 3, 4, generator=generator), codes, torch.randn(N, generator=generator)
    if kind == "table":
        return (torch.randint(3, (N, 4), generator=generator).float(),)
    values = torch.randn(N, 12, 2, generator=generator)
    if kind == "series":
        return (values,)
    return values * (torch.arange(12) < LENGTHS[:, None])[:, :, None], LENGTHS


def augment(kind: str, level: str, seed: int = 0) -> Augment:
    task = tiny.make_task(SPECS[kind])
    made = make_augment(AugmentConfig(level=level), task, samples=N, seed=seed, device=CPU)
    assert made is not None
    return made


def augmented(augmentation: Augment, kind: str, indices: np.ndarray = INDICES, epoch: int = 0) -> Inputs:
    rows = torch.from_numpy(indices)
    inputs = tuple(tensor[rows] for tensor in inputs_of(kind))
    if kind == "lengths":  # as the reader pads a batch: to its longest series
        inputs = (inputs[0][:, : int(inputs[1].max())], inputs[1])
    return augmentation(inputs, torch.zeros(len(rows)), indices, epoch)[0]


@pytest.mark.parametrize("kind", SPECS)
def test_chance_is_a_function_of_seed_epoch_and_sample(write: Write, kind: str) -> None:
    level = write("jitter")
    whole = augmented(augment(kind, level), kind)
    torch.manual_seed(1)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    for part in (np.array([4, 1]), np.array([3]), np.array([5, 3, 2])):
        for one, other in zip(augmented(augment(kind, level), kind, part), whole, strict=True):
            rows = other[torch.from_numpy(part)]
            assert torch.equal(one, rows[:, : one.shape[1]] if one.ndim > 1 else rows)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == np.random.get_state()[1].tolist()
    for other in (
        augmented(augment(kind, level), kind, epoch=1),
        augmented(augment(kind, level, 1), kind),
    ):
        assert not torch.equal(whole[0], other[0])


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("batched", [False, True])
def test_numbers_change_and_all_else_stays(write: Write, kind: str, batched: bool) -> None:
    before = inputs_of(kind)
    name = "two" if kind == "tensor" else "one"
    level = write(
        "f", f"{CODE}\nfrom functools import partial\nf = partial({name})\nf.batched = {batched}"
    )
    after = augmented(augment(kind, level), kind)
    assert all(torch.equal(x, y) for x, y in zip(before, inputs_of(kind), strict=True))
    for old, new in zip(before, after, strict=True):
        assert new.dtype == old.dtype
        added = torch.full_like(old, float(old.is_floating_point()))
        if kind == "lengths" and old.ndim > 1:  # padding stays 0
            added *= (torch.arange(12) < LENGTHS[:, None])[:, :, None]
        if kind in WIDTHS:  # indicators and codes stay
            added[:, WIDTHS[kind] :] = 0
        assert torch.equal(new, old + added)


def test_a_series_ends_where_it_ends(write: Write) -> None:
    augmentation = augment("lengths", write("shape"))
    values, _ = augmented(augmentation, "lengths")
    assert augmentation.own is not None
    seen = augmentation.own._pipeline.func.__globals__["shapes"]
    assert seen == [(length, 2) for length in LENGTHS.tolist()]
    assert not values.any()


def test_a_batch_together_says_what_its_chance_depends_on(write: Write) -> None:
    augmentation = augment("table", write("together"))
    assert "depends on how a batch is divided" in augmentation.sentence
    assert torch.equal(augmented(augmentation, "table")[0][:, :2], inputs_of("table")[0][:, :2] + N)


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("series", "def own(x): return x[1:]", "returned the shape (11, 2) for one of (12, 2), in aug"),
        ("lengths", "def own(x): return x[:1]", "returned the shape (1, 2) for one of (12, 2)"),
        ("table", "def own(x): return x.double()", "returned float64, not float32, in aug.py line 1"),
        ("table", "def own(x): return x / 0", "values that are not finite (NaN, inf), in aug.py line 1"),
        ("table", "def own(x): return x.numpy()", "returned a ndarray, not a tensor"),
        ("table", "def own():\n def f(x): pass\n return f", "not a tensor, in aug.py line 2: def f(x)"),
        ("series", "class own:\n def __call__(self, x): x.a", "failed on float32 (12, 2): Attribute"),
        ("series", "def own(x, y): return x", "is called with (values, **augment.args.own): missing"),
        ("tensor", "def own(x): return x", "is called with (plane, line, **augment.args.own): too many"),
        ("tensor", "def own(x, y): return x", "returned a Tensor, not 2 tensors, in aug.py line 1"),
        ("tensor", "def own(x, y): return x, y, y", "returned a tuple of 3, not 2 tensors"),
        ("tensor", "def own(x, y): return y, x", "returned the shape () for one of (3, 4)"),
    ],
)  # fmt: skip
def test_what_is_no_augmentation_is_refused(write: Write, kind: str, code: str, message: str) -> None:
    level = write("own", code + "\n")
    with pytest.raises(DlcliError) as caught:
        augmented(augment(kind, level), kind)
    assert message in str(caught.value)


@pytest.mark.parametrize("spec", [tiny.text(), tiny.pairs(), tiny.table(numbers=())])
def test_data_without_numbers_is_refused(write: Write, spec: InputSpec) -> None:
    config = AugmentConfig(level=write("one"))
    with pytest.raises(UsageError, match=f"this {spec.kind} data has none of them"):
        make_augment(config, tiny.make_task(spec), samples=N, seed=0, device=CPU)


def test_built_in_operations_stay_those_of_images(write: Write) -> None:
    config = AugmentConfig(level=write("one"), flip=0.5)
    with pytest.raises(UsageError, match="for images, not series") as caught:
        make_augment(config, tiny.make_task(tiny.series()), samples=N, seed=0, device=CPU)
    assert "remove augment.flip;" in (caught.value.hint or "")


def test_training_sees_it_and_evaluation_does_not(write: Write, tmp_path: Path) -> None:
    """With a rate that moves no weight the losses are those of the samples alone."""
    settings = {
        "data": {"data": str(write_waves(tmp_path))},
        "model": {"name": "gru", "args": {"hidden": 4, "dropout": 0.0}},
        "optim": {"lr": 1e-12},
        "fit": {"epochs": 2, "batch_size": 8, "device": "cpu", "min_steps": 1},
    }
    epochs: dict[str, list[EpochDone]] = {"none": [], "jitter": []}
    for name, seen in epochs.items():

        def emit(event: Event, seen: list[EpochDone] = seen) -> None:
            if isinstance(event, EpochDone):
                seen.append(event)

        level = "none" if name == "none" else write("jitter")
        train_run(tmp_path / "runs", name, settings, {"augment": {"level": level}}, emit=emit)
    for plain, varied in zip(*epochs.values(), strict=True):
        assert varied.val["loss"] == pytest.approx(plain.val["loss"], rel=1e-6)
        assert abs(varied.loss - plain.loss) > 1e-4
    plain_losses, varied_losses = ([epoch.loss for epoch in seen] for seen in epochs.values())
    assert plain_losses[0] == pytest.approx(plain_losses[1], rel=1e-5)
    assert abs(varied_losses[0] - varied_losses[1]) > 1e-4  # anew in each epoch


def test_a_mistake_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_houses(tmp_path)
    Path("aug.py").write_text("def noise(row):\n    return row.oops\n")
    train = ["train", "-m", "mlp", "-d", "houses.csv", "--device", "cpu", "-e", "1", "-q"]
    assert main([*train, "--augment", "aug.py:noise"]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "the augmentation aug.py:noise failed on float32 (2,): AttributeError" in error
    assert "in aug.py line 2: return row.oops" in error
    assert not list(tmp_path.glob("runs/*/config.yaml"))
