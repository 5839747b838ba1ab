from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_run
import numpy as np
import pytest
from PIL import Image

from dlcli.errors import DlcliError
from dlcli.evaluation.metrics import ClassificationCounts, EvalResult, TargetRow
from dlcli.events import Event
from dlcli.ui.plots.canvas import new_figure, save_figure
from dlcli.ui.plots.run import save_confusion, save_curves, save_result, save_scatter
from dlcli.ui.progress.metrics_log import MetricsLog


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def near(picture: np.ndarray, color: str) -> int:
    """How many pixels have about this colour."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=2) < 12).sum())


def log(path: Path, events: list[Event]) -> Path:
    with MetricsLog(path) as sink:
        for event in events:
            sink(event)
    return path


def diagonal(names: list[str], count: int = 5) -> EvalResult:
    counts = ClassificationCounts(len(names))
    targets = np.repeat(np.arange(len(names)), count)
    counts.update(np.eye(len(names), dtype=np.float32)[targets], targets)
    return counts.result("val", names)


@pytest.mark.parametrize("epochs", [1, 3])
def test_curves_show_every_line(tmp_path: Path, epochs: int) -> None:
    events: list[Event] = [fake_run.step_done(i) for i in range(1, 4 * epochs + 1)]
    events += [fake_run.epoch_done(epoch, improved=epoch == 1) for epoch in range(1, epochs + 1)]
    path = tmp_path / "plots" / "curves.png"
    assert save_curves(path, log(tmp_path / "metrics.jsonl", events)) == path
    picture = pixels(path)
    assert picture.shape[1] > 2 * picture.shape[0]
    for color in ("#0072B2", "#D55E00", "#009E73"):  # train, val, learning rate
        assert near(picture, color) > 100
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]


def test_curves_bear_losses_that_are_no_numbers(tmp_path: Path) -> None:
    bad = replace(fake_run.epoch_done(1), loss=float("nan"), val={"loss": float("inf"), "accuracy": 0.1})
    metrics = log(tmp_path / "metrics.jsonl", [bad, fake_run.epoch_done(2), fake_run.epoch_done(3)])
    assert near(pixels(save_curves(tmp_path / "curves.png", metrics)), "#0072B2") > 100


def test_curves_take_a_repeated_epoch_once(tmp_path: Path) -> None:
    first = replace(fake_run.epoch_done(2), loss=90.0)
    events: list[Event] = [fake_run.epoch_done(1), first, fake_run.epoch_done(2)]
    twice = save_curves(tmp_path / "a.png", log(tmp_path / "a.jsonl", events))
    once = save_curves(tmp_path / "b.png", log(tmp_path / "b.jsonl", [events[0], events[2]]))
    assert np.array_equal(pixels(twice), pixels(once))


def epochs(monitor: str, *, train: float | None = None, **val: float) -> list[Event]:
    """Three epochs in which every metric falls."""
    return [
        replace(
            fake_run.epoch_done(epoch, monitor=monitor),
            accuracy=train,
            val={name: value / epoch for name, value in val.items()},
        )
        for epoch in (1, 2, 3)
    ]


def test_curves_show_the_monitored_metric_and_train_only_where_there_is_one(tmp_path: Path) -> None:
    def picture(name: str, events: list[Event]) -> np.ndarray:
        return pixels(save_curves(tmp_path / f"{name}.png", log(tmp_path / f"{name}.jsonl", events)))

    both = picture("accuracy", epochs("accuracy", train=0.6, loss=0.9, accuracy=0.8))
    alone = picture("rmse", epochs("rmse", loss=0.9, rmse=90_000.0, r2=0.5))
    # The line of training is in the first panel of both, in the second of one alone.
    half = both.shape[1] * 3 // 8
    assert near(both[:, half:], "#0072B2") > 100
    assert near(alone[:, half:], "#0072B2") == 0
    assert near(alone[:, half:], "#D55E00") > 100


def test_curves_do_not_draw_the_loss_twice(tmp_path: Path) -> None:
    def width(name: str, events: list[Event]) -> int:
        picture = pixels(save_curves(tmp_path / f"{name}.png", log(tmp_path / f"{name}.jsonl", events)))
        return int(picture.shape[1])

    three = width("other", epochs("mse", loss=0.5, mse=0.4))
    assert width("loss_and_mae", epochs("loss", loss=0.5, mae=0.4)) == pytest.approx(three, rel=0.05)
    assert width("loss", epochs("loss", loss=0.5)) < 0.8 * three
    assert width("by_another_name", epochs("mse", loss=0.5, mse=0.5)) < 0.8 * three


def test_no_epoch_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    metrics = log(tmp_path / "metrics.jsonl", [fake_run.STARTED])
    with pytest.raises(DlcliError, match="no finished epoch"):
        save_curves(tmp_path / "curves.png", metrics)
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("classes", [2, 10, 21, 60])
def test_confusion_shows_a_dark_diagonal(tmp_path: Path, classes: int) -> None:
    path = tmp_path / "confusion.png"
    assert save_confusion(path, diagonal([f"class {i}" for i in range(classes)])) == path
    picture = pixels(path)
    # The darkest blue fills one cell in each row: 1/classes of the matrix, and the bar's end.
    share = near(picture, "#08306B") / near(picture, "#F7FBFF")
    assert 0.5 / classes < share < 3 / classes
    assert max(picture.shape) < 3000


def test_confusion_bears_odd_names_and_empty_classes(tmp_path: Path) -> None:
    counts = ClassificationCounts(4)
    counts.update(np.eye(4, dtype=np.float32)[[0, 1]], np.array([0, 1]))
    names = ["$x^{$ of $y$", "two\nlines \udcff", "\u732b", "long " * 60]
    picture = pixels(save_confusion(tmp_path / "c.png", counts.result("test", names)))
    assert near(picture, "#E8E8E8") > 1000  # rows without samples are grey
    assert max(picture.shape) < 1500


def test_confusion_of_nothing_is_drawn(tmp_path: Path) -> None:
    empty = ClassificationCounts(3).result("all", ["a", "b", "c"])
    assert near(pixels(save_confusion(tmp_path / "c.png", empty)), "#E8E8E8") > 1000


def numbers(points: int, task: str = "regression") -> EvalResult:
    rng = np.random.default_rng(0)
    true = rng.normal(200_000, 100_000, points)
    pairs = tuple(zip(true.tolist(), (true + rng.normal(0, 9_000, points)).tolist(), strict=True))
    row = TargetRow("price in $ of $x^{", 9_000.0, 9_000.0, 0.99)
    return EvalResult("test", points, {"loss": 1.0}, task=task, per_target=(row,), points=pairs)  # type: ignore[arg-type]


@pytest.mark.parametrize("points", [1, 12, 2000])
def test_scatter_shows_the_points_along_the_line(tmp_path: Path, points: int) -> None:
    path = tmp_path / "plots" / "scatter.png"
    assert save_scatter(path, numbers(points)) == path
    picture = pixels(path)
    assert max(picture.shape) < 1000
    blue = np.argwhere(picture[..., 2] - picture[..., 0] > 60)
    assert len(blue) > 20
    if points == 2000:  # predictions are close to the truth: down the picture means to the left
        assert np.corrcoef(blue.T)[0, 1] < -0.95


def test_scatter_bears_nothing_and_extremes(tmp_path: Path) -> None:
    none = EvalResult("test", 0, {"loss": float("nan")}, task="regression")
    assert near(pixels(save_scatter(tmp_path / "a.png", none)), "#555555") > 100
    huge = replace(numbers(1), points=((-1e30, 1e30), (0.0, 0.0)))
    assert near(pixels(save_scatter(tmp_path / "b.png", huge)), "#555555") > 100


@pytest.mark.parametrize(
    ("result", "drawn"),
    [(diagonal(["a", "b"]), ["confusion.png"]), (numbers(9), ["scatter.png"]),
     (numbers(9, "forecast"), ["scatter.png"]), (EvalResult("val", 2, {}, task="seq2seq"), []),
     (EvalResult("val", 2, {}, task="multilabel"), []),
     (EvalResult("val", 2, {}, task="embedding"), [])],
    ids=["classification", "regression", "forecast", "seq2seq", "multilabel", "embedding"],
)  # fmt: skip
def test_a_result_is_drawn_by_its_task(tmp_path: Path, result: EvalResult, drawn: list[str]) -> None:
    folder = tmp_path / "plots"
    assert save_result(folder, result) == [folder / name for name in drawn]
    assert [p.name for p in folder.glob("*")] == drawn


def test_plots_leave_pyplot_and_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    before = matplotlib.rcParams.copy()
    save_confusion(tmp_path / "c.png", diagonal(["a", "b"]))
    save_curves(tmp_path / "d.png", log(tmp_path / "metrics.jsonl", [fake_run.epoch_done(1)]))
    assert matplotlib.rcParams.copy() == before


def test_a_busy_machine_draws_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib warns where looking for a legend's place takes more than a second of wall time."""
    import matplotlib.legend

    hours = SimpleNamespace(perf_counter=itertools.count(0, 3600).__next__)
    monkeypatch.setattr(matplotlib.legend, "time", hours)
    fig, (axes,) = new_figure(4, 3, columns=(1,))
    axes.plot([0, 1], label="loss")
    axes.legend()
    assert save_figure(fig, tmp_path / "a.png").is_file()
