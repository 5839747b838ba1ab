"""Samples to look at, of every kind of data: small, and what the model sees."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import DATA, TinyData

from dlcli.config import TrainConfig
from dlcli.data.kinds import kind_of
from dlcli.data.previews import (
    CELL,
    CURVES,
    POINTS,
    SIDE,
    TEXT,
    image_preview,
    row_preview,
    series_preview,
    text_preview,
)
from dlcli.data.summary import summarize_source
from dlcli.settings import merge, validate
from dlcli.training.distributed.world import ALONE
from dlcli.training.planning import make_plan
from dlcli.training.readers import make_readers

# What the kinds of data show of a sample.
SHOWN = {"image": "image", "text": "text", "pairs": "text", "tabular": "cells", "series": "curves"}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_every_kind_shows_its_samples_and_counts_them(data: TinyData, tmp_path: Path) -> None:
    path = data.write(tmp_path)
    plan = make_plan(
        lambda recipe: validate(TrainConfig, merge(recipe, data.settings, {"data": {"data": str(path)}}))
    )
    reader = make_readers(plan, ALONE)["val"]
    one = np.array([0], np.int64)
    preview = kind_of(plan.task).preview(reader.samples.take(one), reader.read(one)[0], plan.task.input)
    filled = [name for name, value in vars(preview).items() if value]
    assert filled == ([SHOWN[data.kind]] if data.kind in SHOWN else [])
    summary = summarize_source(plan.source)
    for name, samples in plan.source.splits.items():
        split = summary["splits"][name]
        assert split["samples"] == len(samples)
        if data.task == "classification":
            assert sum(split["classes"].values()) == len(samples)
        if data.task == "regression":
            (quantiles,) = split["targets"].values()
            assert list(quantiles.values()) == sorted(quantiles.values())
    reader.close()


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 3), (400, 533, 3), (2, 900, 1)])
def test_pictures_are_small_and_keep_their_sides(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    preview = image_preview(rng.integers(0, 256, shape, dtype=np.uint8))
    head, _, body = preview.image.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    assert len(body) < 30_000
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        assert max(image.size) <= SIDE
        if max(shape) <= SIDE:
            assert image.size == (shape[1], shape[0])


def test_long_things_are_cut() -> None:
    assert len(text_preview("x" * 10_000).text) == TEXT
    cells = row_preview([f"c{i}" for i in range(500)], ["y" * 999, None, 0.1 + 0.2] + [1] * 497).cells
    assert [value for _, value in cells[1:3]] == ["", "0.3"]
    assert len(cells) < 500
    assert len(cells[0][1]) == CELL
    curves = series_preview([f"c{i}" for i in range(9)], np.zeros((5000, 9))).curves
    assert len(curves) == CURVES
    assert all(len(values) <= POINTS for _, values in curves)
