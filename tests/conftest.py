"""Tiny data sets, runs and helpers that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Before torch is imported anywhere: tests share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(autouse=True, scope="session")
def _own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests, and the processes they start, keep their list of known files to themselves."""
    os.environ["DLCLI_STATE"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def photo_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make ``root[/split]/class/N.jpg``: photos of a colour for each class, with noise."""

    def make(
        classes: tuple[str, ...] = ("blue", "green", "red"),
        per_class: int = 6,
        *,
        splits: tuple[str, ...] = (),
        name: str = "photos",
        size: tuple[int, int] = (40, 48),
    ) -> Path:
        rng = np.random.default_rng(0)
        root = tmp_path / name
        for split in splits or ("",):
            for c, label in enumerate(classes):
                folder = root / split / label
                folder.mkdir(parents=True)
                for i in range(per_class):
                    base = np.zeros((*size, 3))
                    base[..., c % 3] = 60 + 120 * (c // 3 + 1) / 2
                    noisy = np.clip(base + rng.normal(0, 20, base.shape), 0, 255)
                    Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{i}.jpg")
        return root

    return make
