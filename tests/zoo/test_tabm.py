"""TabM: members, their mean, piecewise linear embeddings, and what trains each of them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import tiny
import torch
from torch import nn

from dlcli.card import ModelSpec
from dlcli.config import LossConfig
from dlcli.data.tables.columns import encode_columns, fit_columns, with_bins
from dlcli.task import NumberColumn, TargetNumber, TaskKind, TaskSpec
from dlcli.training.loop.loader import Batch
from dlcli.training.loop.objective import Objective
from dlcli.training.losses.make import make_loss
from dlcli.zoo.base import build_model
from dlcli.zoo.precision import resolve_precision
from dlcli.zoo.tabm import EnsembleLinear, PiecewiseLinearEmbedding, TabM, mean_of_members

KINDS: list[TaskKind] = ["classification", "multilabel", "regression"]


def task_of(kind: TaskKind) -> TaskSpec:
    spec = tiny.table("ab", {"c": "xyz"}, bin_edges=(-1.0, 0.0, 1.0))
    targets = [TargetNumber(name="u"), TargetNumber(name="w")]
    return tiny.make_task(spec, kind, classes=list("pqr"), targets=targets)


def model(kind: TaskKind, k: int = 4) -> TabM:
    torch.manual_seed(0)
    spec = ModelSpec(name="tabm", args={"k": k, "widths": (8, 8), "dropout": 0.0})
    module = build_model(spec, task_of(kind))
    assert isinstance(module, TabM)
    nn.init.normal_(module.head.weight)
    return module


def rows(n: int = 6) -> torch.Tensor:
    return torch.cat([torch.randn(n, 2), torch.randint(0, 4, (n, 1)).float()], dim=1)


def targets_of(kind: TaskKind, n: int = 6) -> torch.Tensor:
    if kind == "classification":
        return torch.arange(n) % 3
    return (torch.rand(n, 3) < 0.5).float() if kind == "multilabel" else torch.randn(n, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_the_mean_of_the_members(kind: TaskKind) -> None:
    module, x = model(kind), rows()
    members, output = module.train()(x), module.eval()(x)
    assert members.shape == (6, 4, *output.shape[1:])
    prob = {"classification": lambda y: y.softmax(-1), "multilabel": torch.sigmoid}.get(kind)
    of = prob or (lambda y: y)
    torch.testing.assert_close(of(output), of(members).mean(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("undivided", ["", "a reason"])
def test_the_loss_is_the_mean_of_the_members_losses(kind: TaskKind, undivided: str) -> None:
    module, x, y = model(kind).train(), rows(), targets_of(kind)
    loss = make_loss(task_of(kind), LossConfig())
    objective = Objective(
        task_of(kind), resolve_precision("none", torch.device("cpu")), loss, undivided=undivided
    )
    got = objective(module, Batch((x,), y, np.arange(6), 6, 0, 6))
    each = [loss(one, y)[0] for one in module(x).unbind(1)]
    torch.testing.assert_close(got.loss, torch.stack(each).mean())
    assert float(got.count) == float(loss(module(x)[:, 0], y)[1])
    of_mean = loss(mean_of_members(module(x), kind), y)[0]
    assert not torch.allclose(got.loss, of_mean)  # which would let members lean on each other


def test_members_differ_by_the_signs_of_the_first_layer_alone() -> None:
    torch.manual_seed(0)
    first, second = EnsembleLinear(64, 8, 4, signs=True), EnsembleLinear(8, 8, 4, signs=False)
    assert set(first.r.unique().tolist()) == {-1.0, 1.0}
    x = torch.randn(2, 1, 64)
    expected = torch.stack([(x[:, 0] * r) @ first.shared.weight.T + first.bias[0] for r in first.r], 1)
    torch.testing.assert_close(first(x), expected)
    same = second(torch.ones(2, 1, 8))
    assert torch.equal(same, same[:, :1].expand_as(same))


def test_a_number_is_encoded_piecewise_linearly_by_its_bins() -> None:
    columns = (NumberColumn(name="a", bin_edges=(0, 1, 3)), NumberColumn(name="b"))
    module = PiecewiseLinearEmbedding(columns, 1)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    with torch.no_grad():
        module.bends[0, :, 0] = torch.tensor([10.0, 100.0])
    x = torch.tensor([[-5.0], [0.5], [2.0], [9.0]]).repeat(1, 2)
    assert module(x).tolist() == [[0, 0], [5, 0], [60, 0], [110, 0]]


def test_bins_hold_equally_many_training_rows_and_are_no_more_than_the_values() -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({
        "even": rng.normal(size=400),
        "skewed": np.exp(2 * rng.normal(size=400)),
        "two": rng.integers(0, 2, 400),
        "gap": [None if i % 3 == 0 else float(i % 50) for i in range(400)],
    })  # fmt: skip
    spec, _ = fit_columns(frame, np.arange(400))
    binned = with_bins(frame, spec, 8)
    assert binned.without_bins() == spec
    encoded, _ = encode_columns(frame, binned)
    for i, column in enumerate(binned.numbers):
        assert encoded[:, i].min() == np.float32(column.bin_edges[0])
        assert encoded[:, i].max() == np.float32(column.bin_edges[-1])
        if column.name in ("even", "skewed"):
            counts, _ = np.histogram(encoded[:, i], column.bin_edges)
            assert counts.tolist() == pytest.approx([50] * 8, abs=1)
    assert [len(column.bin_edges) for column in binned.numbers][2] == 2
