"""Tiny data sets on disk, of every kind of data and task, and how to train on and predict them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dlcli.task import TaskKind

Pixels = np.ndarray  # (H, W, C) or (H, W) of 0..255


@dataclass(frozen=True)
class TinyData:
    """A data set that ``write`` puts into a folder, and gives the value of --data for.

    ``settings`` are those of training a small model on it. ``arguments(path)`` are those of `predict`
    that name the samples of ``split`` (of "all": the whole undivided set), in its order.
    """

    kind: str
    task: TaskKind
    write: Callable[[Path], Path]
    settings: dict[str, Any]
    arguments: Callable[[Path], list[str]]
    split: str = "all"

    @property
    def data_settings(self) -> dict[str, Any]:
        """The settings of reading it."""
        return dict(self.settings.get("data", {}))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A table of cells that need no quotes."""
    lines = [",".join(map(str, row)) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_image(path: Path, pixels: Pixels) -> Path:
    """An image in the format of its suffix; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


def write_ts(
    path: Path,
    series: Sequence[np.ndarray],
    labels: Sequence[str] | None,
    *,
    header: str = "",
    missing: str = "?",
) -> Path:
    """A `.ts` file of series (T_i, C), as the format's own writers lay it out."""
    lines = ["# a comment", "@problemName tiny", "@timeStamps false", *header.splitlines()]
    if labels is not None:
        lines.append("@classLabel true " + " ".join(sorted(set(labels))))
    else:
        lines.append("@classLabel false")
    lines.append("@data")
    for i, values in enumerate(series):
        cells = [[missing if np.isnan(v) else repr(float(v)) for v in channel] for channel in values.T]
        parts = [",".join(channel) for channel in cells]
        lines.append(":".join([*parts, *([labels[i]] if labels is not None else [])]))
    path.write_text("\n".join(lines) + "\n")
    return path


def random_series(lengths: Sequence[int], channels: int) -> list[np.ndarray]:
    """Normal values (T_i, C)."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(length, channels)) * 1e3 for length in lengths]


def write_photos(
    root: Path,
    classes: Sequence[str] = ("blue", "green", "red"),
    per_class: int = 6,
    *,
    splits: Sequence[str] = ("",),
    size: tuple[int, int] = (40, 48),
) -> Path:
    """``root[/split]/class/N.jpg``: photos of a colour for each class, with noise."""
    rng = np.random.default_rng(0)
    for split in splits:
        for c, label in enumerate(classes):
            for i in range(per_class):
                pixels = np.zeros((*size, 3))
                pixels[..., c % 3] = 60 + 120 * (c // 3 + 1) / 2
                noise = rng.normal(0, 20, pixels.shape)
                write_image(root / split / label / f"{i}.jpg", pixels + noise)
    return root


def write_labelled_images(root: Path) -> Path:
    """A table that names images, each with the labels of its bright channels."""
    rows = []
    for i in range(40):
        bright = {"red": i % 2 == 0, "green": i % 3 == 0, "blue": True}
        channels = [np.full((12, 12), 200 if on else 20) for on in bright.values()]
        write_image(root / "imgs" / f"{i}.png", np.stack(channels, axis=-1))
        rows.append((f"imgs/{i}.png", "|".join(name for name, on in bright.items() if on)))
    return write_csv(root / "spots.csv", ("path", "labels"), rows)


def write_measured_images(root: Path) -> Path:
    """A table that names images, each with its brightness."""
    for i in range(40):
        write_image(root / f"{i}.png", np.full((12, 12), 5 * i + 20))
    rows = [(f"{i}.png", 5 * i + 20.5) for i in range(40)]
    return write_csv(root / "shades.csv", ("file", "shade"), rows)


def write_texts(root: Path) -> Path:
    """A table of short texts and a class."""
    rng = np.random.default_rng(0)
    words = {"cold": ["ice", "snow", "frost"], "warm": ["sun", "fire", "summer"]}
    rows = []
    for i in range(60):
        label = ("cold", "warm")[i % 2]
        chosen = " ".join(rng.choice([*words[label], "the", "a", "of"], size=3 + i % 7))
        rows.append((f'"{chosen}, {i}"', label))
    return write_csv(root / "texts.csv", ("text", "label"), rows)


def write_houses(root: Path) -> Path:
    """A table of numbers, some of them missing, a category and a numeric target."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(80):
        rooms, place = int(rng.integers(1, 9)), ("sea", "hill")[i % 2]
        age = "" if i % 9 == 0 else str(rng.integers(1, 60))
        price = rooms * 10_000 + 5_000 * (i % 2) + rng.normal(0, 99)
        rows.append((rooms, age, place, f"{price:.2f}"))
    return write_csv(root / "houses.csv", ("rooms", "age", "place", "price"), rows)


def write_waves(root: Path) -> Path:
    """Series of unequal lengths and a class, in two files."""
    rng = np.random.default_rng(0)
    for split, count in (("TRAIN", 40), ("TEST", 12)):
        frequencies = [0.5 if i % 2 else 2.0 for i in range(count)]
        waves = [np.sin(np.arange(8 + i % 5) * f)[:, None] for i, f in enumerate(frequencies)]
        noisy = [wave + rng.normal(0, 0.05, wave.shape) for wave in waves]
        labels = [("slow", "fast")[i % 2 == 0] for i in range(count)]
        write_ts(root / f"Waves_{split}.ts", noisy, labels, header="@equalLength false")
    return root / "Waves"


def write_hours(root: Path) -> Path:
    """One long series: a moment and two channels."""
    rng = np.random.default_rng(0)
    rows = []
    for hour in range(400):
        moment = f"2024-01-{1 + hour // 24:02d} {hour % 24:02d}:00:00"
        heat = 10 + 5 * np.sin(hour / 24 * 2 * np.pi)
        rows.append((moment, f"{heat:.4f}", f"{rng.normal():.4f}"))
    return write_csv(root / "hours.csv", ("date", "heat", "load"), rows)


def write_panel(root: Path) -> Path:
    """Three series of one table, each at its own level."""
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(("north", "south", "west")):
        for day in range(120):
            moment = f"2024-{1 + day // 28:02d}-{1 + day % 28:02d}"
            sales = 10.0**number * (5 + np.sin(day / 7 * 2 * np.pi) + rng.normal(0, 0.1))
            rows.append((name, moment, f"{sales:.4f}"))
    return write_csv(root / "panel.csv", ("shop", "day", "sales"), rows)


def write_pairs(root: Path) -> Path:
    """A table of letters, and of the same letters backwards and large."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(30):
        letters = rng.choice(list("abcdefg"), size=rng.integers(3, 6))
        rows.append((" ".join(letters), " ".join(letters[::-1]).upper()))
    return write_csv(root / "pairs.csv", ("source", "target"), rows)


def write_tensors(root: Path) -> Path:
    """Arrays of floats and of whole numbers, and a numeric target."""
    rng = np.random.default_rng(0)
    plane, codes = rng.normal(size=(40, 3, 4)).astype(np.float32), rng.integers(0, 5, (40, 2))
    path = root / "tensors.npz"
    np.savez(path, plane=plane, codes=codes, target=plane.sum(axis=(1, 2)) + codes[:, 0])
    return path


def _itself(path: Path) -> list[str]:
    return [str(path)]


def _images_of(table: Path) -> list[str]:
    """The files that a table of images names, in its order."""
    lines = table.read_text().splitlines()[1:]
    return [str(table.parent / line.partition(",")[0]) for line in lines]


_HORIZON = 6


def _without_horizon(path: Path) -> list[str]:
    """The long series up to where its last window ends."""
    lines = path.read_text().splitlines()
    shorter = path.with_name("shorter.csv")
    shorter.write_text("\n".join(lines[:-_HORIZON]) + "\n")
    return [str(shorter)]


def _last_without_horizon(path: Path) -> list[str]:
    """The last series up to where its last window ends, which is the last of the split."""
    header, *lines = path.read_text().splitlines()
    own = [line for line in lines if line.startswith("west,")][:-_HORIZON]
    shorter = path.with_name("shorter.csv")
    shorter.write_text("\n".join([header, *own]) + "\n")
    return [str(shorter)]


DATA: dict[str, TinyData] = {
    "photos": TinyData(
        "image",
        "classification",
        lambda root: write_photos(root / "photos"),
        {"model": {"name": "cnn", "img_size": 12, "args": {"widths": [4]}}},
        _itself,
    ),
    "labelled images": TinyData(
        "image",
        "multilabel",
        write_labelled_images,
        {
            "model": {"name": "cnn", "img_size": 12, "args": {"widths": [4]}},
            "augment": {"level": "strong"},
        },
        _images_of,
    ),
    "measured images": TinyData(
        "image",
        "regression",
        write_measured_images,
        {"model": {"name": "mlp", "img_size": 12, "args": {"widths": [8]}}},
        _images_of,
    ),
    "text": TinyData(
        "text",
        "classification",
        write_texts,
        {"model": {"name": "lstm", "args": {"hidden": 8, "dim": 8}}},
        _itself,
    ),
    "table": TinyData(
        "tabular",
        "regression",
        write_houses,
        {"model": {"name": "mlp", "args": {"widths": [16], "dropout": 0.1}}},
        _itself,
    ),
    "series": TinyData(
        "series",
        "classification",
        write_waves,
        {"model": {"name": "gru", "args": {"hidden": 8}}},
        lambda path: [f"{path}_TEST.ts"],
        "test",
    ),
    "forecast": TinyData(
        "series",
        "forecast",
        write_hours,
        {"model": {"name": "linear"}, "data": {"target": "heat", "window": 24, "horizon": _HORIZON}},
        _without_horizon,
        "test",
    ),
    "panel": TinyData(
        "series",
        "forecast",
        write_panel,
        {"model": {"name": "linear"}, "data": {"window": 14, "horizon": _HORIZON}},
        _last_without_horizon,
        "test",
    ),
    "tensors": TinyData(
        "tensor",
        "regression",
        write_tensors,
        {"model": {"name": "mlp", "args": {"widths": [8]}}, "data": {"kind": "tensor"}},
        _itself,
    ),
    "pairs": TinyData(
        "pairs",
        "seq2seq",
        write_pairs,
        {"model": {"name": "seq2seq", "args": {"dim": 16, "heads": 2, "ff": 16}}},
        _itself,
    ),
}
