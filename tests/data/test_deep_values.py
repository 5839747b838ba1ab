"""Images of more than 8 bits: the range of the training split is fitted, and used everywhere alike."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import image

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import Listed
from dlcli.data.images.kind import fit
from dlcli.data.kinds import ModelNeeds
from dlcli.data.sources import open_source
from dlcli.pixels.decode import decode, is_deep_file, read_values, whole_image, whole_values
from dlcli.pixels.deep_values import fit_range, scale, unscale
from dlcli.task import ImageInput

RNG = np.random.default_rng(0)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_colour_16(path: Path, values: np.ndarray) -> Path:
    """A PNG of 16-bit colours (H, W, 3) or with alpha (H, W, 4), which Pillow cannot write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def twelve_bits(root: Path, high: int = 1100) -> Path:
    """Two classes of 16-bit PNGs whose values are from 900 to ``high``."""
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            values = RNG.integers(900, high + 1, (8, 8)).astype(np.uint16)
            values[0, 0], values[0, 1] = 900, high
            Image.fromarray(values).save(root / name / f"{i}.png")
    return root


def fitted(root: Path) -> tuple[ImageInput, list[str]]:
    source = open_source(DataConfig(data=str(root)), seed=0)
    task, notices = fit(source, TrainConfig(), ModelNeeds(photo_size=8))
    assert isinstance(task.input, ImageInput)
    return task.input, [notice.message for notice in notices]


def test_the_range_of_the_training_split_becomes_0_to_255(tmp_path: Path) -> None:
    spec, said = fitted(twelve_bits(tmp_path / "d"))
    assert spec.value_range == (900, 1100)
    assert said == [
        "images of more than 8 bits: values from 900 to 1,100, the range in train, become 0 to 255"
    ]
    values = np.linspace(900, 1100, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    pixels = decode(tmp_path / "x.png", spec)[..., 0]
    assert np.array_equal(pixels, np.floor((values - 900.0) * 255 / 200 + 0.5))
    Image.fromarray(values + 5000).save(tmp_path / "y.png")
    assert (decode(tmp_path / "y.png", spec) == 255).all()


def test_8_bit_files_have_no_range_and_are_not_scaled(tmp_path: Path) -> None:
    spec, said = fitted(twelve_bits(tmp_path / "d"))
    eight = np.full((8, 8), 77, np.uint8)
    Image.fromarray(eight).save(tmp_path / "x.png")
    assert (decode(tmp_path / "x.png", spec) == 77).all()
    for name in ("a", "b"):
        for i in range(6):
            Image.fromarray(RNG.integers(0, 9, (8, 8), dtype=np.uint8)).save(
                tmp_path / f"d/{name}/{i}.png"
            )
    spec, said = fitted(tmp_path / "d")
    assert spec.value_range is None
    assert not said


def test_a_few_defect_pixels_do_not_darken_the_rest(tmp_path: Path) -> None:
    paths = []
    for i in range(4):
        values = RNG.integers(900, 1101, (64, 64)).astype(np.uint16)
        values[3, i] = 65535
        Image.fromarray(values).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    found = fit_range(paths, is_deep_file, read_values)
    assert found is not None
    (low, high), message = found
    assert 899 <= low < high <= 1101
    assert "65,535 are rare and are clipped" in message


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colours_keep_their_low_byte(channels: int, tmp_path: Path) -> None:
    values = RNG.integers(0, 4096, (8, 8, channels)).astype(np.uint16)
    if channels == 4:
        values[..., 3] = 65535
    path = write_colour_16(tmp_path / "a.png", values)
    assert is_deep_file(path)
    assert np.array_equal(read_values(path), values[..., :3])
    pixels = decode(path, image(value_range=(0, 4095)))
    assert np.array_equal(pixels, scale(values[..., :3], (0, 4095)))
    assert int(decode(path, image()).max()) == 15  # without a range, as before


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_beyond_16_bits_are_read_with_a_range(dtype: type, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(3):
            values = RNG.integers(-1024, 3072, (8, 8)).astype(dtype)
            values[0, :2] = -1024, 3071
            Image.fromarray(values).save(tmp_path / "d" / name / f"{i}.tif")
    spec, _ = fitted(tmp_path / "d")
    assert spec.value_range == (-1024, 3071)
    pixels = decode(tmp_path / "d/a/0.tif", spec)
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)


def test_orientation_and_whole_values_agree_with_the_pixels(tmp_path: Path) -> None:
    values = RNG.integers(100, 4000, (6, 9)).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    spec = image(6, 1, value_range=(100, 3999))
    raw = whole_values(tmp_path / "a.png", spec)
    assert raw.shape == (9, 6, 1)
    assert np.array_equal(raw[..., 0], np.rot90(values, -1))
    assert np.array_equal(scale(raw, (100, 3999)), whole_image(tmp_path / "a.png", spec))


def test_unscale_is_undone_by_scale() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    for value_range in ((900, 1100), (-1024, 3071), (0, 65535), (0.0, 1e-3), (5, 6)):
        assert np.array_equal(scale(unscale(pixels, value_range), value_range), pixels)


def test_the_listed_files_are_left_as_they_were(tmp_path: Path) -> None:
    root = twelve_bits(tmp_path / "d")
    source = open_source(DataConfig(data=str(root)), seed=0)
    items = source.splits["train"].items
    assert isinstance(items, Listed)
    before = [path.read_bytes() for path in items.values]
    fitted(root)
    assert before == [path.read_bytes() for path in items.values]
