"""Pixels of more than 8 bits: their values, and how they become 8 bits.

Files of 16 bits often hold fewer: 12 bits of a camera or detector reach 4,095 of 65,535. So the lowest
and highest value of the training split are fitted, and every file is scaled from these to 0 to 255.
Without a fitted range (models of dlcli 0.1) 16 bits keep their high byte, and floats are from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dlcli.errors import BadSample

ValueRange = tuple[float, float]
Values = npt.NDArray[Any]  # (H, W), or (H, W, 3) with colours, of any number type

# Files that cannot have more than 8 bits are not opened to see.
_MAY_BE_DEEP = frozenset({".png", ".apng", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k"})
_MAX_HEADERS, _MAX_FILES = 2_000, 1_000
_VALUES_PER_FILE = 4_096  # for the percentiles
_PERCENTILES = (0.1, 99.9)
_OUTLIER_FACTOR = 8  # a range so many times that of the percentiles is due to a few defect pixels


def is_deep(image: Image.Image) -> bool:
    """Whether an opened image has more than 8 bits a channel. Call it before `load`."""
    return image.mode == "F" or image.mode.startswith("I") or _low_byte_mode(image) is not None


def may_be_deep(path: Path) -> bool:
    """Whether the format of a file, by its extension, allows more than 8 bits."""
    return path.suffix.lower() in _MAY_BE_DEEP or not path.suffix


def values_of(image: Image.Image, reopen: Callable[[], Any]) -> Values | None:
    """Load an opened image of more than 8 bits and return its values; None for others.

    Pillow gives the high bytes of 16-bit colours; the low bytes are those of the file once more, from
    ``reopen()``, read in the other byte order.
    """
    low_mode = _low_byte_mode(image)
    if low_mode is None:
        return np.asarray(image) if is_deep(image) else None
    image.load()  # before the file is read again
    low = reopen()
    codec, extents, offset, _ = low.tile[0]
    low.tile = [type(low.tile[0])(codec, extents, offset, low_mode)]
    high_bytes, low_bytes = (np.asarray(one)[..., :3].astype(np.uint16) for one in (image, low))
    return high_bytes << 8 | low_bytes


def to_8_bits(values: Values, value_range: ValueRange | None) -> npt.NDArray[np.uint8]:
    """Scale values to uint8, from ``value_range``, or by the high byte without one.

    Raises: BadSample for values that are no numbers, or without a range are beyond 16 bits or 0 to 1.
    """
    is_float = values.dtype.kind == "f"
    if is_float and not np.isfinite(values).all():
        raise BadSample("its float pixels are not all numbers")
    if value_range is not None:
        return scale(values, value_range)
    low, high = values.min(), values.max()
    if is_float:
        if low < 0 or high > 1:
            raise BadSample(
                f"its float pixels are from {low:g} to {high:g}; only 0 to 1 is supported (save it with "
                "8 or 16 bits, or train a model on such files)"
            )
        rounded: npt.NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
        return rounded
    if low < 0 or high > 65535:
        raise BadSample(f"its integer pixels are from {low} to {high}; only 8 and 16 bits are read")
    high_bytes: npt.NDArray[np.uint8] = (values >> 8).astype(np.uint8)
    return high_bytes


def scale(values: Values, value_range: ValueRange) -> npt.NDArray[np.uint8]:
    """Scale from a range to 0 to 255, rounded and clipped, in float32 as an ONNX graph does."""
    low, factor = scale_factors(value_range)
    scaled = values.astype(np.float32)
    scaled -= low
    scaled *= factor
    scaled += np.float32(0.5)
    np.floor(scaled, out=scaled)
    pixels: npt.NDArray[np.uint8] = scaled.clip(0, 255).astype(np.uint8)
    return pixels


def unscale(pixels: npt.NDArray[np.uint8], value_range: ValueRange) -> npt.NDArray[np.float32]:
    """Values that `scale` turns into ``pixels``."""
    low, factor = scale_factors(value_range)
    return pixels.astype(np.float32) / factor + low


def scale_factors(value_range: ValueRange) -> tuple[np.float32, np.float32]:
    """What is subtracted from a value, and what the difference is multiplied by."""
    low, high = value_range
    return np.float32(low), np.float32(255 / (high - low))


def fit_range(
    paths: Sequence[Path],
    is_deep_file: Callable[[Path], bool],
    read_values: Callable[[Path], Values | None],
) -> tuple[ValueRange, str] | None:
    """The range of the values in training files of more than 8 bits, and a sentence; None without any.

    At most 1,000 files are read, evenly spaced. The range is from the lowest to the highest value,
    unless that is 8 times the range of all but 0.1 % at each end: a few defect pixels do not darken the
    rest.
    """
    candidates = [path for path in paths if may_be_deep(path)]
    deep = [path for path in _some(candidates, _MAX_HEADERS) if is_deep_file(path)]
    read = _some(deep, _MAX_FILES)
    extremes, sample = _extremes(read_values(path) for path in read)
    if not extremes:
        return None
    low, high = min(a for a, _ in extremes), max(b for _, b in extremes)
    inner_low, inner_high = (float(v) for v in np.percentile(sample, _PERCENTILES))
    clipped = ""
    if inner_high > inner_low and high - low > _OUTLIER_FACTOR * (inner_high - inner_low):
        clipped = f"; values to {low:,.6g} and {high:,.6g} are rare and are clipped"
        low, high = inner_low, inner_high
    if not high > low:
        high = low + 1.0
    message = (
        f"images of more than 8 bits: values from {low:,.6g} to {high:,.6g}, the range in train"
        f"{_of_how_many(len(read), len(candidates))}, become 0 to 255{clipped}"
    )
    return (low, high), message


def _extremes(
    images: Iterable[Values | None],
) -> tuple[list[tuple[float, float]], npt.NDArray[np.float64]]:
    """The lowest and highest value of each image, and some values of all."""
    extremes, samples = [], []
    for values in images:
        if values is None or not values.size or not np.isfinite(values).all():
            continue  # reported where the image is read
        extremes.append((float(values.min()), float(values.max())))
        flat = values.reshape(-1)
        samples.append(flat[:: -(-flat.size // _VALUES_PER_FILE)].astype(np.float64))
    return extremes, np.concatenate(samples) if samples else np.zeros(0)


def _some(paths: Sequence[Path], most: int) -> list[Path]:
    """At most ``most`` of the paths, evenly spaced."""
    if len(paths) <= most:
        return list(paths)
    return [paths[i] for i in np.linspace(0, len(paths) - 1, most).round().astype(int)]


def _of_how_many(read: int, total: int) -> str:
    return f" ({read:,} of {total:,} files read)" if read < total else ""


def _low_byte_mode(image: Image.Image) -> str | None:
    """The raw mode of the low bytes of a 16-bit colour PNG; None for other images."""
    tile = getattr(image, "tile", None)
    if image.format != "PNG" or not tile:
        return None
    mode = tile[0][3]
    return mode.replace("16B", "16L") if mode in ("RGB;16B", "RGBA;16B") else None
