"""Metric learning: what may be embedded, and the way from data to an exported model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlcli.card import Card, ModelSpec
from dlcli.cli import main
from dlcli.config import AugmentConfig, DataConfig, ExportConfig, TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.kinds import KINDS, ModelNeeds
from dlcli.data.sources import open_other, open_source
from dlcli.datacheck.base import CheckOptions
from dlcli.datacheck.checking import check_data
from dlcli.deploy.parity import check_parity
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import FORMATS, Artifact, ModelFile
from dlcli.task import ImageInput, NumberColumn, TabularInput, TaskSpec
from dlcli.training.augmentation.augment import make_augment

Photos = Callable[..., Path]


def table(path: Path, rows: int = 60) -> Path:
    """Two numbers that tell three kinds of thing apart."""
    rng = np.random.default_rng(0)
    lines = ["width,height,kind"]
    for i in range(rows):
        x, y = np.array([(3, 0), (0, 3), (-3, -3)][i % 3]) + rng.normal(0, 0.5, 2)
        lines.append(f"{x:.3f},{y:.3f},{('ant', 'bee', 'cat')[i % 3]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def texts(path: Path) -> Path:
    words = {"cold": ["ice", "snow", "frost"], "warm": ["sun", "fire", "summer"]}
    lines = ["text,label"]
    for i in range(60):
        label = ("cold", "warm")[i % 2]
        lines.append(f'"{" ".join(words[label][: 1 + i % 3])}, number {i}",{label}')
    path.write_text("\n".join(lines) + "\n")
    return path


def waves(path: Path) -> Path:
    rows = []
    for i in range(60):
        values = np.sin(np.arange(9 + i % 3) * (0.5 if i % 2 else 2.0))
        rows.append(",".join(f"{v:.4f}" for v in values) + f":{('slow', 'fast')[i % 2 == 0]}")
    head = "@problemName waves\n@timestamps false\n@univariate true\n@equalLength false\n"
    path.write_text(head + "@classLabel true slow fast\n@data\n" + "\n".join(rows) + "\n")
    return path


def opened(path: Path, **said: Any) -> DataSource:
    config = DataConfig.model_validate({"data": str(path), "task": "embedding", **said})
    return open_source(config, seed=0)


def task_of(source: DataSource) -> TaskSpec:
    config = TrainConfig.model_validate({"model": {"embedding_size": 7}})
    return KINDS.get(source.kind).fit(source, config, ModelNeeds())[0]


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("tabular", lambda root: table(root / "t.csv")),
        ("text", lambda root: texts(root / "t.csv")),
        ("series", lambda root: waves(root / "w.ts")),
        ("image", None),
    ],
)
def test_classes_of_any_kind_of_data_can_be_embedded(
    kind: str, make: Any, tmp_path: Path, photo_folder: Photos
) -> None:
    source = opened(photo_folder(per_class=12) if make is None else make(tmp_path))
    assert (source.kind, source.task) == (kind, "embedding")
    for samples in source.splits.values():
        counts = np.bincount(samples.targets)
        assert counts[counts > 0].min() >= 2
    task = task_of(source)
    assert (task.num_outputs, task.output_shape, task.output.name) == (7, (7,), "vectors")
    assert task.class_names == source.class_names
    assert TaskSpec.model_validate(task.model_dump()) == task


def test_the_same_data_reads_the_same_again(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "t.csv"))
    again = open_source(DataConfig(data=source.origin, **source.options), seed=0)
    assert again.task == "embedding"
    assert {k: v.ids for k, v in again.splits.items()} == {k: v.ids for k, v in source.splits.items()}


def test_sets_known_by_name_can_be_embedded() -> None:
    assert open_source(DataConfig(data="digits", task="embedding"), seed=0).task == "embedding"


def test_numbers_cannot_be_embedded(tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_text("x,y\n" + "\n".join(f"{i},{i * 1.37:.2f}" for i in range(50)) + "\n")
    with pytest.raises(DlcliError, match="has 50 distinct values in 50 rows"):
        opened(path)
    with pytest.raises(UsageError, match="--task embedding needs samples of one class each"):
        open_source(DataConfig(data="diabetes", task="embedding"), seed=0)


def test_a_split_without_a_pair_is_refused(photo_folder: Photos) -> None:
    with pytest.raises(DlcliError, match=r"the val split of .* has no two samples of one class"):
        opened(photo_folder(per_class=5))


def test_one_class_alone_is_refused(photo_folder: Photos) -> None:
    with pytest.raises(DlcliError, match="one class"):
        opened(photo_folder(("only",), per_class=9))


def test_classes_that_training_has_not_seen_are_searched_too(photo_folder: Photos) -> None:
    root = photo_folder(("red", "green"), splits=("train",))
    photo_folder(("blue", "amber"), splits=("val",))
    with pytest.raises(DlcliError, match="but train has none"):
        open_source(DataConfig(data=str(root)), seed=0)
    source = opened(root)
    assert source.class_names == ("green", "red", "amber", "blue")
    assert sorted(set(source.splits["val"].targets.tolist())) == [2, 3]


def test_other_data_may_have_any_classes(photo_folder: Photos) -> None:
    task = task_of(opened(photo_folder(per_class=8)))
    other = photo_folder(("amber", "blue", "cyan"), name="other")
    source = open_other(DataConfig(data=str(other)), task)
    assert source.class_names == ("amber", "blue", "cyan")
    assert len(source.splits["all"]) == 18
    assert len(set(source.splits["all"].targets.tolist())) == 3


def test_the_check_of_data_speaks_of_its_classes(photo_folder: Photos) -> None:
    options = CheckOptions(config=TrainConfig())
    report = check_data(opened(photo_folder(per_class=8)), options)
    assert report.task == "embedding"
    assert "balance" in report.facts
    assert report.splits["train"]["classes"] == {"blue": 4, "green": 4, "red": 4}


IMAGE = ImageInput(channels=3, height=8, width=8, resize_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
EMBED = TaskSpec(kind="embedding", input=IMAGE, class_names=("a", "b"), embedding_size=2)


def test_samples_are_varied_but_not_mixed() -> None:
    import torch

    cpu = torch.device("cpu")
    strong = make_augment(AugmentConfig(level="strong"), EMBED, samples=4, seed=0, device=cpu)
    assert strong is not None
    assert not strong.mixes
    with pytest.raises(UsageError, match="need classes or labels"):
        make_augment(AugmentConfig(mixup=0.2), EMBED, samples=4, seed=0, device=cpu)


# The way to an exported file


class Fixed(Artifact):
    """An artifact that turns its inputs by an angle, and more of them by noise."""

    def __init__(self, turn: float, noise: float = 0.0) -> None:
        numbers = TabularInput(numbers=(NumberColumn(name="x"), NumberColumn(name="y")))
        task = TaskSpec(kind="embedding", input=numbers, class_names=("a", "b"), embedding_size=2)
        super().__init__(
            ModelFile(Path("x"), FORMATS.get("safetensors")), Card(model=ModelSpec(name="x"), task=task)
        )
        self.turn = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        self.noise = noise

    def predict(self, inputs: Any) -> Any:
        x = inputs[0] @ self.turn
        x = x + self.noise * np.sin(1e4 * x)
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def parity(after: Artifact, spread: float = 1.0, tolerance: float = 10.0) -> Any:
    rng = np.random.default_rng(0)
    rows = (np.ones((60, 2)) + spread * rng.normal(size=(60, 2))).astype(np.float32)
    config = ExportConfig(tolerance=tolerance)
    return check_parity(Fixed(0.0), after, (rows,), np.arange(60) % 2, config, data="val", note="")


def test_agreement_is_of_nearest_neighbours() -> None:
    turned = parity(Fixed(0.5))  # other numbers, the same neighbours
    assert turned.ok
    assert all(batch.agreement == 1 for batch in turned.batches)
    assert not parity(Fixed(0.5), tolerance=1e-3).ok
    noisy = parity(Fixed(0.0, noise=0.5))
    assert any("get the same nearest neighbour" in said for said in noisy.missed)
    assert set(noisy.metrics) == {"recall_at_1", "loss"}


def test_neighbours_that_rounding_chose_need_not_agree() -> None:
    close = parity(Fixed(0.0, noise=1e-5), spread=1e-4)
    assert all(batch.agreement == 1 for batch in close.batches)


def call(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    code = main([*args, "--json"])
    out = capsys.readouterr()
    assert code == 0, out.err
    return json.loads(out.out)


SETTINGS = {
    "image": ("cnn", ["model.img_size=12", "model.args.widths=[8]", "augment.level=light"]),
    "tabular": ("mlp", ["model.args.widths=[16]"]),
    "text": ("lstm", ["model.args.hidden=8", "model.args.dim=8"]),
    "series": ("gru", ["model.args.hidden=8"]),
}


@pytest.mark.parametrize(
    "kind", ["image", "tabular", *(pytest.param(k, marks=pytest.mark.slow) for k in ("text", "series"))]
)
def test_train_eval_predict_export(
    kind: str,
    tmp_path: Path,
    photo_folder: Photos,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "image":
        data = photo_folder(per_class=14, size=(12, 12))
    else:
        data = {"tabular": table, "text": texts, "series": waves}[kind](
            tmp_path / ("d.ts" if kind == "series" else "d.csv")
        )
    asked = {
        "image": str(data / "red" / "0.jpg"),
        "text": "snow and frost",
    }.get(kind, str(data))
    model, own = SETTINGS[kind]
    said = [word for text in own for word in ("--set", text)]
    common = ["--batch-size", "16", "--epochs", "4", "--device", "cpu", "--embedding-size", "5"]
    call(capsys, "train", "-m", model, "-d", str(data), "--task", "embedding", *common, *said)
    measured = call(capsys, "eval")
    assert measured["task"] == "embedding"
    assert set(measured["metrics"]) == {"loss", "recall_at_1"}
    assert all(np.isfinite(value) for value in measured["metrics"].values())
    names = {"image": "nearest pixels", "tabular": "nearest values"}
    assert measured["baselines"][0]["name"] == names.get(kind, "chance")
    rows = call(capsys, "predict", asked)["predictions"]
    vectors = np.array([row["embedding"] for row in rows])
    assert vectors.shape[1] == 5
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    exported = call(capsys, "export", "--onnx")
    assert exported["parity"]["ok"]
    assert exported["parity"]["data"] == "val"
    again = call(capsys, "predict", exported["output"], asked)["predictions"]
    assert np.allclose([row["embedding"] for row in again], vectors, atol=1e-4)
    assert main(["predict", asked, "--output", "out.csv", "--quiet"]) == 0
    with Path("out.csv").open() as file:
        written = list(csv.DictReader(file))
    row = ["row"] if kind == "tabular" else []
    assert list(written[0]) == ["input", *row, *(f"e{i}" for i in range(5))]
    capsys.readouterr()
    assert main(["predict", asked]) == 0
    assert "embedding" in capsys.readouterr().out.splitlines()[0]
    assert main(["eval"]) == 0
    assert "recall_at_1" in capsys.readouterr().out
    assert main(["info", exported["output"]]) == 0
    assert "embedding, 5 dimensions" in capsys.readouterr().out
