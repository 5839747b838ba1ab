"""Boosted trees as tensors: equal to scikit-learn's own predictions, and exported as any model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from dlcli.card import Card, ModelSpec
from dlcli.cli import main
from dlcli.config import ExportConfig
from dlcli.formats.base import Runtime, recognize
from dlcli.formats.checkpoint import open_checkpoint, save_model
from dlcli.formats.onnx.format import open_onnx, write_onnx
from dlcli.task import TargetNumber, TaskKind, TaskSpec
from dlcli.zoo import trees
from dlcli.zoo.base import Rows, build_model, find_model
from dlcli.zoo.forward import load_tensors

KINDS: list[TaskKind] = ["classification", "multilabel", "regression"]


def task_of(kind: TaskKind, classes: str) -> TaskSpec:
    spec = tiny.table("ab", {"c": range(40), "d": range(300)}, indicators="b")
    targets = [TargetNumber(name="u", mean=3.0, std=2.0), TargetNumber(name="w")]
    return tiny.make_task(spec, kind, classes=list(classes), targets=targets)


def rows_of(task: TaskSpec, n: int, seed: int, *, codes: int = 41) -> Rows:
    """Rows whose targets depend on numbers, on a missing indicator and on categories."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n)).astype(np.float32).round(2)
    missing = rng.random(n) < 0.2
    c, d = rng.integers(0, codes, n), rng.integers(0, 301, n)
    score = a + missing * b + np.sin(c * 12.9898) * 2 + d / 100 + 0.1 * rng.normal(size=n)
    columns = np.column_stack([a, np.where(missing, 0, b), missing, c, d]).astype(np.float32)
    if task.kind == "classification":
        edges = np.quantile(score, np.linspace(0, 1, task.num_classes + 1)[1:-1])
        return Rows(columns, np.digitize(score, edges))
    if task.kind == "multilabel":
        return Rows(
            columns, np.column_stack([score > t for t in np.arange(task.num_classes)]).astype(int)
        )
    return Rows(columns, np.column_stack([score, a * score]))


def fitted(
    task: TaskSpec, monkeypatch: pytest.MonkeyPatch, **args: Any
) -> tuple[torch.nn.Module, list[Any], ModelSpec]:
    """The module of a fit on 600 rows, and the estimators of scikit-learn that it was made of."""
    models = []
    real = trees._fit_one
    monkeypatch.setattr(trees, "_fit_one", lambda *a: models.append(real(*a)) or models[-1])
    entry = find_model("trees", "tabular")
    values = entry.arguments({"max_iter": 30, "min_samples_leaf": 5, **args})
    # Training never meets some codes, which must go the way of missing values.
    train = rows_of(task, 600, 0, codes=30)
    result = trees.fit(task, values, train, rows_of(task, 200, 1), 0)
    spec = ModelSpec(name="trees", args={**values.model_dump(mode="json"), **result.args})
    module = build_model(spec, task)
    load_tensors(module, result.state)
    return module.eval(), models, spec


@pytest.mark.parametrize(
    ("kind", "classes"),
    [("classification", "pq"), ("classification", "pqr"), ("multilabel", "pqr"), ("regression", "")],
)
def test_outputs_are_those_of_scikit_learn(
    kind: TaskKind, classes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(kind, classes)
    module, models, _ = fitted(task, monkeypatch)
    rows = rows_of(task, 500, 2).columns
    outputs = module(torch.from_numpy(rows)).double()
    if kind == "classification":
        expected = models[0].predict_proba(rows)
        outputs = outputs.softmax(1)
    elif kind == "multilabel":
        expected = np.stack([model.predict_proba(rows)[:, 1] for model in models], axis=1)
        outputs = outputs.sigmoid()
    else:
        expected = np.stack([model.predict(rows) for model in models], axis=1)
    np.testing.assert_allclose(outputs.numpy(), expected, atol=1e-6)
    splits = module.forest.split  # type: ignore[union-attr]
    assert (splits > 0).any()  # type: ignore[operator]
    assert (splits == 0).any()  # type: ignore[operator]


def test_a_float32_goes_where_scikit_learns_float64_threshold_sends_it() -> None:
    thresholds = np.array([0.1, 1 / 3, -0.7, np.float64(np.float32(0.1)), np.inf])
    below = trees._float32_below(thresholds)
    for value in (*below, *np.nextafter(below, np.float32(np.inf)), *thresholds.astype(np.float32)):
        assert ((value <= below) == (np.float64(value) <= thresholds)).all()


def test_constant_targets_need_no_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of("multilabel", "pq")
    rows = rows_of(task, 60, 0)
    rows = Rows(rows.columns, np.tile([0, 1], (60, 1)))
    result = trees.fit(task, trees.TreesArgs(), rows, rows, 0)
    module = build_model(ModelSpec(name="trees", args=result.args), task)
    load_tensors(module, result.state)
    assert module(torch.from_numpy(rows.columns)).sigmoid().round().tolist() == [[0, 1]] * 60


def test_a_file_and_its_export_predict_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of("classification", "pqr")
    module, _, spec = fitted(task, monkeypatch, max_iter=4, max_depth=4)
    save_model(tmp_path / "m.safetensors", module, Card(model=spec, task=task))
    source = open_checkpoint(recognize(tmp_path / "m.safetensors"), Runtime("cpu"))
    write_onnx(source, tmp_path / "m.onnx", ExportConfig())
    exported = open_onnx(recognize(tmp_path / "m.onnx"), Runtime("cpu"))
    rows = rows_of(task, 50, 3).columns
    expected = module(torch.from_numpy(rows)).numpy()
    np.testing.assert_array_equal(source.predict((rows,)), expected)
    for n in (1, 50):
        np.testing.assert_allclose(exported.predict((rows[:n],)), expected[:n], atol=1e-6)


REFUSED = {
    "--lr": "train {} --lr 0.1",
    "--epochs": "train {} --epochs 5",
    "--freeze": "train {} --freeze backbone",
    "--lora": "train {} --lora 4",
    "--teacher": "train {} --teacher runs/T",
    "--batch-size": "train {} --batch-size 32",
    "--devices": "train {} --devices 2",
    "--dry-run": "train {} --dry-run",
    "model.args.size": "train {} --set model.args.size={{}}",
    "fit.epochs": "train --resume runs/T --epochs 3",
    "prune": "prune runs/T",
    "quantize": "quantize runs/T",
}


def test_a_run_is_trained_again_by_its_settings_and_what_needs_gradients_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    task = task_of("regression", "")
    rows = rows_of(task, 120, 0)
    lines = [
        f"{a},{c:.0f},{y:.3f}" for (a, *_, c, _), (y, _) in zip(rows.columns, rows.targets, strict=True)
    ]
    (tmp_path / "t.csv").write_text("a,c,y\n" + "\n".join(lines) + "\n")
    data = "--model trees --data t.csv --target y --device cpu --set model.args.max_iter=5"
    assert main(["train", *data.split(), "--name", "T"]) == 0
    shown = capsys.readouterr()
    screen = shown.out + shown.err
    assert "0 parameters" not in screen
    assert "optimizer" not in screen
    assert main(["train", "--config", "runs/T/config.yaml", "--name", "U", "--quiet"]) == 0
    twins = [(tmp_path / "runs" / run / "best.safetensors") for run in "TU"]
    first, second = (open_checkpoint(recognize(path), Runtime("cpu")) for path in twins)
    np.testing.assert_array_equal(*(one.predict((rows.columns[:, [0, 3]],)) for one in (first, second)))
    capsys.readouterr()
    for name, command in REFUSED.items():
        assert main(command.format(data).split()) == 2, command
        assert name in capsys.readouterr().err
