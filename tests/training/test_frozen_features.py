"""Features of frozen layers: the same training as without them, in a fraction of its forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bert
import torch
from PIL import Image

from dlcli.config import TrainConfig
from dlcli.errors import UsageError
from dlcli.events import CheckpointSaved, EpochDone, Event, RunStarted
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training.autotune.resolve import resolve_auto
from dlcli.training.checks import check_plan
from dlcli.training.frozen_features import Cut, FeatureReader, cut_at_head, groups_of
from dlcli.training.loop.state import load_newest
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run
from dlcli.training.run import new_run, train
from dlcli.zoo.base import build_model

BASE: dict[str, Any] = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [8, 8], "dropout": 0.0}, "freeze": "backbone"},
    "augment": {"level": "none"},
    "fit": {"epochs": 3, "batch_size": 128, "device": "cpu", "amp": "none"},
}


def plan(**changes: Any) -> Plan:
    return make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))


def train_new(
    root: Path, made: Plan
) -> tuple[list[EpochDone], tuple[str, ...], dict[str, torch.Tensor]]:
    """The epochs, the notes and the last weights of a run."""
    seen: list[EpochDone] = []
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, EpochDone):
            seen.append(event)
        elif isinstance(event, RunStarted):
            notes.extend(event.notes)

    prepared = prepare_run(resolve_auto(made, lambda event: None))
    run = new_run(prepared, root, None)
    train(prepared, run, emit, state=None)
    return seen, notes, {k: v.clone() for k, v in prepared.module.state_dict().items()}


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that went through the frozen layers."""
    sizes: list[int] = []
    features = Cut.features

    def counted(self: Cut, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        sizes.append(len(inputs[0]))
        return features(self, inputs)

    monkeypatch.setattr(Cut, "features", counted)
    return sizes


@pytest.mark.parametrize("more", [{"optim": {"lr": 1e-3}}, {"optim": {"lr": 0.02}, "fit": {"ema": 0.9}}])
def test_cached_features_train_the_same_head(
    tmp_path: Path, forwards: list[int], more: dict[str, Any]
) -> None:
    cached, notes, head = train_new(tmp_path, plan(**more))
    assert any("are computed once, without augmentation" in note for note in notes)
    made = plan(**merge(more, {"fit": {"cache_features": "off"}}))
    samples = sum(len(made.source.splits[split]) for split in ("train", "val"))
    assert sum(forwards) == samples  # each once
    whole, _, expected = train_new(tmp_path, made)
    assert sum(forwards) == samples
    for one, other in zip(cached, whole, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.val["loss"] == pytest.approx(other.val["loss"], rel=1e-4)
    for name, tensor in expected.items():
        assert torch.allclose(head[name].float(), tensor.float(), rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("model", ["bert", "cnn"])
def test_a_text_goes_through_frozen_layers_once(tmp_path: Path, forwards: list[int], model: str) -> None:
    data = tiny_bert.write_questions(tmp_path / "q.csv")
    weights = str(tiny_bert.write_snapshot(tmp_path / "tiny")) if model == "bert" else None
    args = {"dropout": 0.0, **({} if weights else {"token_dropout": 0.0})}
    base: dict[str, Any] = {
        "data": {"data": str(data)},
        "model": {"name": model, "weights": weights, "args": args, "freeze": "backbone"},
        "fit": {"epochs": 3, "batch_size": 8, "device": "cpu", "amp": "none"},
    }

    def made(**fit: Any) -> Plan:
        return make_plan(lambda recipe: validate(TrainConfig, merge(recipe, base, {"fit": fit})))

    assert (made().config.optim.lr, made().config.fit.min_steps) == (3e-3, 3000)
    base |= {"optim": {"lr": 1e-2}, "fit": {**base["fit"], "min_steps": 1}}
    cached, notes, head = train_new(tmp_path, made())
    assert any("are computed once, without augmentation" in note for note in notes)
    assert sum(forwards) == sum(len(made().source.splits[split]) for split in ("train", "val"))
    whole, _, expected = train_new(tmp_path, made(cache_features="off"))
    for one, other in zip(cached, whole, strict=True):
        assert one.val["loss"] == pytest.approx(other.val["loss"], rel=1e-4)
    assert all(torch.allclose(head[k], t, rtol=1e-3, atol=1e-5) for k, t in expected.items())
    with pytest.raises(UsageError, match="texts are not augmented"):
        resolve_auto(made(feature_copies=2), lambda event: None)


def test_layers_that_begin_to_train_end_the_cache(tmp_path: Path, forwards: list[int]) -> None:
    frozen = {"model": {"unfreeze": "features.1@50%"}, "fit": {"epochs": 4, "cache_features": "on"}}
    names = [name for name, _ in build_model(plan().model, plan().task).named_children()]
    frozen["model"]["unfreeze"] = f"{names[0]}@50%"
    made = plan(**frozen)
    before = {k: v.clone() for k, v in prepare_run(made).module.state_dict().items()}
    cached, notes, after = train_new(tmp_path, made)
    assert any("until 50 % of the run" in note for note in notes)
    samples = sum(len(made.source.splits[split]) for split in ("train", "val"))
    assert sum(forwards) == samples
    assert any(
        not torch.equal(before[name], after[name]) for name in before if name.startswith(f"{names[0]}.")
    )
    whole, _, _ = train_new(tmp_path, plan(**merge(frozen, {"fit": {"cache_features": "off"}})))
    for one, other in zip(cached, whole, strict=True):
        assert one.val["loss"] == pytest.approx(other.val["loss"], rel=1e-3)


def test_copies_are_taken_in_turn(tmp_path: Path, forwards: list[int]) -> None:
    augmented = {"augment": {"level": "light"}, "fit": {"feature_copies": 2, "epochs": 4}}
    made = plan(**augmented)
    _, notes, _ = train_new(tmp_path, made)
    assert any("for 2 augmented versions" in note for note in notes)
    train_split, val = (len(made.source.splits[split]) for split in ("train", "val"))
    assert sum(forwards) == 2 * train_split + val


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a model with the weights of a run."""
    root = tmp_path_factory.mktemp("first")
    train_new(root, plan(model={"freeze": "none"}, fit={"epochs": 1}))
    return {"freeze": "none", "weights": str(root / "cnn-digits" / "best.safetensors")}


def test_a_head_trains_alone_first_and_then_all_layers(
    tmp_path: Path, forwards: list[int], weights: dict[str, Any]
) -> None:
    """Like the run of the head alone, and then like a run that begins with its weights."""
    rates = {"optim": {"lr": 1e-3, "head_lr": 1e-2}, "fit": {"head_epochs": 2, "epochs": 4}}
    made = plan(model=weights, **rates)
    both, notes, _ = train_new(tmp_path, made)
    assert any("first 2 of 4 epochs, with a peak rate of 0.01, then all layers" in n for n in notes)
    assert sum(forwards) == sum(len(made.source.splits[split]) for split in ("train", "val"))
    alone, _, _ = train_new(
        tmp_path, plan(model={**weights, "freeze": "backbone"}, optim={"lr": 1e-2}, fit={"epochs": 2})
    )
    for one, other in zip(both, alone, strict=False):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.val["loss"] == pytest.approx(other.val["loss"], rel=1e-5)
    whole, _, _ = train_new(
        tmp_path, plan(model=weights, **merge(rates, {"fit": {"cache_features": "off"}}))
    )
    for one, other in zip(both, whole, strict=True):
        assert one.val["loss"] == pytest.approx(other.val["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"weights": None, "freeze": "none"}}, "this model starts from scratch"),
        ({"model": {"freeze": "backbone"}}, "--head-epochs and --freeze backbone exclude"),
        ({"fit": {"head_epochs": 3}}, "--head-epochs 3 of --epochs 3 leave none for all layers"),
        ({"optim": {"lr": "auto"}}, "--head-epochs and --lr auto exclude"),
        ({"fit": {"head_epochs": 0}, "optim": {"head_lr": 1e-2}}, "--head-lr is for --head-epochs"),
    ],
)
def test_what_a_head_alone_cannot_be_with(
    weights: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    settings = merge({"model": weights, "fit": {"head_epochs": 2}}, changes)
    with pytest.raises(UsageError, match=words):
        check_plan(plan(**settings))


def test_epochs_of_the_head_come_before_those_of_the_model(weights: dict[str, Any]) -> None:
    base = {
        **BASE,
        "fit": {"batch_size": 128, "device": "cpu", "head_epochs": 20},
        "model": {**BASE["model"], **weights},
    }
    made = resolve_auto(
        make_plan(lambda recipe: validate(TrainConfig, merge(recipe, base))), lambda _: None
    )
    assert (made.config.fit.epochs, made.config.fit.cache_features) == (45, "on")


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("given", ["", "frozen", "head first"])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, weights: dict[str, Any], epoch: int, given: str
) -> None:
    """A run that is stopped within its first epoch computes the rest of the features later.

    With weights that were ``given``, a resumed run has them from its state alone.
    """
    model = weights if given else {}
    fit = {"head_epochs": int(given == "head first")}
    if given == "frozen":
        model = {**weights, "freeze": "backbone"}
    _, _, expected = train_new(tmp_path, plan(model=model, fit=fit))
    asked = plan(model=model, fit={**fit, "checkpoint_every": "3"})
    prepared = prepare_run(resolve_auto(asked, lambda event: None))
    run = new_run(prepared, tmp_path, None)
    assert "cache_features: 'on'" in run.config.read_text()

    class Killed(Exception):
        pass

    def kill(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and event.what == "state" and event.step > 12 * epoch:
            raise Killed

    with pytest.raises(Killed):
        train(prepared, run, kill, state=None)
    state = load_newest(run.state)[0]
    assert state is not None
    assert state.progress.batch > 0
    assert state.progress.epoch == epoch
    resumed = prepare_run(read_plan(read_run(run), fresh=False))
    train(resumed, run, lambda event: None, state=state)
    for name, tensor in resumed.module.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_groups_are_the_batches_of_an_order() -> None:
    order = np.array([3, 1, 1, 0, 5, 3])
    assert groups_of(order, [0, 2, 4, 6], 8).tolist() == [1, 0, 3, 0, 3, 2, 4, 4]


def test_augmentation_that_was_asked_for_is_not_left_out() -> None:
    made = resolve_auto(plan(augment={"level": "light"}), lambda event: None)
    assert made.config.fit.cache_features == "off"
    assert any("augmentation was asked for" in note for note in made.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"freeze": "none"}, "fit": {"cache_features": "on"}}, "no layers are frozen"),
        ({"fit": {"cache_features": "on", "swa": 0.5}}, "--swa needs the samples"),
        ({"fit": {"cache_features": "off", "feature_copies": 2}}, "--feature-copies"),
    ],
)
def test_what_cannot_be_is_a_usage_error(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve_auto(plan(**changes), lambda event: None)


class TwoOutputs(torch.nn.Module):
    """A model whose output is not that of its head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(4, 4).requires_grad_(False)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)) * 2


def test_a_model_that_cannot_be_cut_says_why() -> None:
    sample = (torch.randn(2, 4),)
    assert cut_at_head(TwoOutputs(), "head", sample, 10) == "the output of head is not that of the model"
    module = TwoOutputs()
    module.body.weight.requires_grad_(True)
    assert cut_at_head(module, "head", sample, 10) == "body is not frozen"
    assert cut_at_head(module, "fc", sample, 10) == "the model has no head of its own"


def test_samples_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        for name in ("cats", "dogs"):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "data" / "cats" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    made = plan(data={"data": str(tmp_path / "data")}, model={"img_size": 16}, fit={"batch_size": 8})
    seen, notes, _ = train_new(tmp_path / "runs", made)
    assert any("are computed once" in note for note in notes)
    assert len(seen) == 3


def test_a_reader_gives_rows_in_order_and_again() -> None:
    made = plan()
    from dlcli.training.readers import make_reader
    from dlcli.zoo.precision import Precision

    module = build_model(made.model, made.task).requires_grad_(False)
    head = [name for name, _ in module.named_children()][-1]
    reader = make_reader(made, "val", 1.0)
    sample = (torch.zeros(2, 1, 8, 8),)
    cut = cut_at_head(module, head, sample, len(reader))
    assert isinstance(cut, Cut)
    features = FeatureReader(
        reader, cut, made.task, Precision("none", torch.device("cpu")), np.arange(len(reader)) // 4
    )
    where = np.array([5, 2, 5, 9])
    (rows,), indices = features.read(where)
    assert indices.tolist() == where.tolist()
    assert np.array_equal(rows[0], rows[2])
    assert features.array() is None
    features.read(np.arange(len(reader)))
    stored = features.array()
    assert stored is not None
    assert np.array_equal(stored[0][where], rows)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 3000),
        ({"fit": {"min_steps": 40}}, 40),
        ({"augment": {"level": "light"}}, 0),
        ({"augment": {"level": "light"}, "fit": {"feature_copies": 2}}, 3000),
        ({"fit": {"cache_features": "off"}}, 0),
        ({"fit": {"swa": 0.5}}, 0),
        ({"model": {"freeze": "none"}}, 0),
        ({"model": {"unfreeze": "layer4@50%"}}, 0),
    ],
)
def test_a_head_alone_has_more_and_larger_steps(changes: dict[str, Any], steps: int) -> None:
    model = {"name": "resnet18", "pretrained": False, "freeze": "backbone"}
    base = {"data": BASE["data"], "model": model}
    made = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, base, changes)))
    assert made.config.fit.min_steps == steps
    assert made.config.optim.lr == (3e-3 if steps else 1e-3)
