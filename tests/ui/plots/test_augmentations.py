"""The grid of augmented images: what is on it, and how its captions read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlcli.errors import DlcliError
from dlcli.task import ImageInput, TargetNumber, TaskSpec
from dlcli.ui.plots.augmentations import AugmentRow, captions, save_augment_grid

SPEC = ImageInput(
    channels=3, height=8, width=8, resize="squash", resize_size=8, mean=(0.5,) * 3, std=(1,) * 3
)
CLASSES = TaskSpec(input=SPEC, class_names=("cat", "dog", "emu"))
LABELS = TaskSpec(kind="multilabel", input=SPEC, class_names=("cat", "dog", "emu"))
NUMBERS = TaskSpec(kind="regression", input=SPEC, targets=(TargetNumber(name="y"),))


def plain(colour: tuple[int, ...], height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width, len(colour)), colour, dtype=np.uint8)


def test_every_picture_is_on_the_grid(tmp_path: Path) -> None:
    colours = [
        (200, 10, 10),
        (10, 200, 10),
        (10, 10, 200),
        (120, 120, 20),
        (20, 120, 120),
        (250, 0, 250),
    ]
    rows = [
        AugmentRow([plain(c) for c in colours[:3]], ["a", "b", "c"]),
        AugmentRow([plain(c) for c in colours[3:]], ["d", "0.70 cat + 0.30 dog", "f"]),
    ]
    path = save_augment_grid(tmp_path / "grid.png", rows)
    with Image.open(path) as image:
        seen = np.asarray(image.convert("RGB")).astype(int)
    where = []
    for colour in colours:
        close = np.abs(seen - colour).max(axis=2) <= 2
        assert close.sum() > 100 * 100
        where.append(np.argwhere(close).mean(axis=0))
    assert where[0][1] < where[1][1] < where[2][1]  # columns from left to right
    assert where[0][0] < where[3][0]  # rows from top to bottom
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize("size", [(6, 18), (18, 6)])
def test_grey_and_long_images_keep_their_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    row = AugmentRow([plain((90,), *size)] * 3, ["€ $5 and $6", "日本", "new\nline"])
    path = save_augment_grid(tmp_path / "grid.png", [row, row])
    with Image.open(path) as image:
        grey = np.abs(np.asarray(image.convert("RGB")).astype(int) - 90).max(axis=2) <= 2
    rows, columns = grey.sum(axis=0).max() / 2, grey.sum(axis=1).max() / 3
    assert rows / columns == pytest.approx(size[0] / size[1], rel=0.1)


def test_a_row_may_be_shorter_and_a_single_picture_will_do(tmp_path: Path) -> None:
    save_augment_grid(
        tmp_path / "a.png",
        [AugmentRow([plain((1, 2, 3))], ["x"]), AugmentRow([plain((1, 2, 3))] * 2, ["x", "y"])],
    )
    save_augment_grid(tmp_path / "b.png", [AugmentRow([plain((1, 2, 3))], ["x"])])
    assert (tmp_path / "a.png").stat().st_size > 0


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DlcliError, match="taken"):
        save_augment_grid(tmp_path / "taken" / "a.png", [AugmentRow([plain((1, 2, 3))], ["x"])])


def test_captions_say_what_a_sample_is() -> None:
    assert captions(np.array([2, 0]), CLASSES) == ["emu", "cat"]
    shares = np.array([[0.25, 0.75, 0], [1, 0, 0], [0.001, 0.0, 0.999]])
    assert captions(shares, CLASSES) == ["0.75 dog + 0.25 cat", "cat", "emu"]
    labels = np.array([[1, 0, 1], [0, 0, 0]], dtype=np.uint8)
    assert captions(labels, LABELS) == ["emu + cat", "none"]
    assert captions(np.array([[12.34567]]), NUMBERS) == ["12.35"]
