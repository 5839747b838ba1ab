"""Explanations: what the model does not read has no effect, and the map is the paper's formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import nn

from dlcli.card import Card, ModelSpec
from dlcli.cli import main
from dlcli.data.base import Inputs, Items, Listed
from dlcli.data.occlusion import Part
from dlcli.data.prepare import random_inputs, trim
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.explanations import Explainer, Explanation, PartEffect, scores
from dlcli.formats.base import FORMATS, Artifact, ModelFile, Outputs
from dlcli.formats.checkpoint import save_model
from dlcli.runs.folder import RunFolder
from dlcli.task import TaskSpec
from dlcli.ui.plots.explanation import save_explanation
from dlcli.zoo.base import build_model
from dlcli.zoo.grad_cam import feature_layer, grad_cam


class Function(Artifact):
    """A file of a format without gradients whose outputs are those of a function."""

    def __init__(self, task: TaskSpec, function: Callable[[Inputs], Any]) -> None:
        card = Card(model=ModelSpec(name="cnn"), task=task)
        super().__init__(ModelFile(Path("model.onnx"), FORMATS.get("onnx")), card)
        self.function = function

    def predict(self, inputs: Inputs) -> Outputs:
        return np.asarray(self.function(inputs), np.float32)


def explained(
    task: TaskSpec, function: Callable[[Inputs], Any], items: Items | None = None
) -> Explanation:
    inputs = trim(random_inputs(task, 1, length=8), task)
    explainer = Explainer(Function(task, function))
    return explainer.explain_inputs("one", items or Listed(("",)), inputs)


def test_the_map_is_the_mean_gradient_times_the_features() -> None:
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
    model = nn.Sequential(
        conv, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head
    ).eval()
    pixels = torch.randn(1, 3, 8, 8)
    before = model(pixels)
    assert feature_layer(model, [pixels]) == "1"
    features = torch.relu(conv(pixels))[0]
    expected = torch.relu((head.weight[1] / 36 * features.permute(1, 2, 0)).sum(2)).detach()
    np.testing.assert_allclose(grad_cam(model, [pixels], "1", 1), expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(model(pixels), before)  # no hook is left
    assert conv.weight.grad is None
    for layer in ("nothing", "4"):
        with pytest.raises(UsageError):
            grad_cam(model, [pixels], layer, 0)


@pytest.mark.parametrize(("name", "layer"), [("cnn", "features"), ("mlp", None)])
def test_a_layer_is_chosen_where_there_is_a_map(name: str, layer: str | None) -> None:
    task = tiny.make_task(tiny.image(32))
    module = build_model(ModelSpec(name=name), task).eval()
    assert feature_layer(module, tiny.model_inputs(task, 1)) == layer


def test_only_the_column_that_is_read_has_an_effect() -> None:
    task = tiny.make_task(tiny.table(("a", "b"), indicators=("a",)), "regression")
    one = explained(task, lambda inputs: inputs[0][:, 1:2])
    effects = {each.part.name: each.effect for each in one.parts}
    value = random_inputs(task, 1)[0][0, 1]
    assert effects == {"a": 0, "b": pytest.approx(2 * value, rel=1e-5), "c": 0}
    assert one.ranked[0].part.name == "b"


def test_a_category_is_replaced_by_each_of_its_values() -> None:
    task = tiny.make_task(tiny.table(("a",), {"c": "wxyz"}), "regression")
    one = explained(task, lambda inputs: inputs[0][:, 1:2])
    assert one.parts[1].without == pytest.approx(3 + 2 * 2.5)  # the mean of the codes 1 to 4


def test_the_word_that_is_counted_has_the_effect() -> None:
    task = tiny.make_task(tiny.text(("good", "film", "bad")))
    good = task.input.vocabulary.index("good")  # type: ignore[attr-defined]

    def logits(inputs: Inputs) -> Any:
        count = (inputs[0] == good).sum(axis=1)
        return np.stack([count, 0 * count, 0 * count], axis=1)

    inputs = (np.array([[good, good + 1]]), np.array([2]))
    one = Explainer(Function(task, logits)).explain_inputs("t", Listed(("Good film!",)), inputs)
    assert [(each.part.name, each.effect) for each in one.parts] == [("Good", 1), ("film", 0), ("!", 0)]
    assert one.target == "a"
    assert next(one.text[each.part.start[0] : each.part.stop[0]] for each in one.parts) == "Good"


def test_the_steps_that_are_read_have_the_effect() -> None:
    task = tiny.make_task(tiny.series(("u", "v"), 12), "forecast", targets=("u",))
    one = explained(task, lambda inputs: np.repeat(inputs[0][:, 3:4, :1], 4, axis=1))
    by_name = {each.part.name: each.effect for each in one.parts}
    assert {name for name, effect in by_name.items() if effect} == {"steps 3:4", "u"}
    assert one.value is None


def test_the_heat_lies_where_the_pixels_are_read() -> None:
    task = tiny.make_task(tiny.image(16))

    def logits(inputs: Inputs) -> Any:
        corner = np.abs(
            inputs[0][:, :4, :4].astype(float) - inputs[0].mean(axis=(1, 2, 3), keepdims=True)
        )
        return np.stack([corner.mean(axis=(1, 2, 3)), *[np.zeros(len(corner))] * 2], axis=1)

    one = explained(task, logits)
    assert one.heat is not None
    assert one.heat.shape == (16, 16)
    assert one.heat.max() == 1
    assert one.heat[:4, :4].min() > 0
    assert one.heat[8:, 8:].max() < 0.05  # the mean colour changes a little


def test_log_odds_are_those_of_the_softmax() -> None:
    task = tiny.make_task(tiny.image())
    logits = np.array([[800.0, -800.0, 1.0], [0.0, 0.0, 0.0]], np.float32)
    assert scores(logits, task, 0).tolist() == [799.0, pytest.approx(np.log(0.5))]


def test_what_has_no_explanation_is_refused_with_the_way_out(tmp_path: Path) -> None:
    pairs = Function(tiny.make_task(tiny.pairs()), lambda inputs: inputs)
    with pytest.raises(UsageError, match="seq2seq"):
        Explainer(pairs)
    images = Function(tiny.make_task(tiny.image()), lambda inputs: np.zeros((1, 3)))
    with pytest.raises(DlcliError, match="no gradients") as refused:
        Explainer(images, method="gradcam")
    assert "occlusion" in str(refused.value.hint)
    texts = Function(tiny.make_task(tiny.text()), lambda inputs: np.zeros((1, 3)))
    with pytest.raises(UsageError, match="images"):
        Explainer(texts, method="gradcam")
    broken = Function(tiny.make_task(tiny.image()), lambda inputs: np.full((1, 3), np.nan))
    with pytest.raises(DlcliError, match="NaN"):
        Explainer(broken).explain_inputs("one", Listed(("",)), random_inputs(broken.card.task, 1))


def test_the_command_writes_pictures_and_nothing_into_the_data(
    tmp_path: Path,
    photo_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = photo_folder()
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs/r")
    run.path.mkdir(parents=True)
    run.write_record({"started_at": "2026"})
    task = tiny.make_task(tiny.image(16))
    card = Card(model=ModelSpec(name="cnn", args={"widths": [4, 8]}), task=task)
    torch.manual_seed(0)
    save_model(run.best, build_model(card.model, task), card)
    before = sorted(path.name for path in photos.rglob("*"))
    assert main(["explain", "photos/red/0.jpg", "photos/blue/0.jpg", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    first, second = result["explanations"]
    assert first["method"] == "gradcam"
    assert np.array(first["heat"]).shape == (16, 16)
    assert first["picture"] != second["picture"]
    assert all(Path(one["picture"]).read_bytes().startswith(b"\x89PNG") for one in (first, second))
    assert all(Path(one["picture"]).parent == Path("runs/r/explanations") for one in (first, second))
    assert sorted(path.name for path in photos.rglob("*")) == before
    assert main(["explain", "photos/red/0.jpg", "--target", "z"]) == 2
    assert "z" in capsys.readouterr().err
    clash = Path("photos/0.jpg.explanation.png")
    (photos / "red/0.jpg").rename(photos / "0.jpg")
    clash.write_bytes((photos / "0.jpg").read_bytes())
    assert main(["explain", "photos/0.jpg", str(clash), "--output", "photos"]) == 2
    assert "would replace" in capsys.readouterr().err
    assert clash.read_bytes() == (photos / "0.jpg").read_bytes()
    assert main(["explain", "photos/0.jpg", "--method", "occlusion", "--target", "b"]) == 0
    assert "b 0." in capsys.readouterr().out


@pytest.mark.parametrize("channels", [1, 6])
def test_a_series_is_drawn_with_the_effects_of_its_spans(channels: int, tmp_path: Path) -> None:
    spans = [Part(f"steps {i}:{i + 4}", "step", (i,), (i + 4,)) for i in range(0, 12, 4)]
    names = [f"$c{i}$" for i in range(channels)]
    parts = [PartEffect(part, (-1.0) ** i, None) for i, part in enumerate(spans)]
    parts += [PartEffect(Part(name, "channel"), 0.1 * i, None) for i, name in enumerate(names)]
    curves = tuple((name, np.linspace(0, i, 12, dtype=np.float32)) for i, name in enumerate(names))
    one = Explanation("a/b.csv", "occlusion", "", "", None, {}, tuple(parts), curves=curves)
    with Image.open(save_explanation(one, tmp_path / "series.png")) as picture:
        assert picture.width > picture.height > 300
