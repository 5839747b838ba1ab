"""A sample as people look at it: a small picture, its text, its cells, its curves. NumPy only.

Pictures are of the pixels that the model sees, before they are normalised.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.wording import shorten

SIDE = 160  # of a picture, in pixels
TEXT = 600  # characters of a text
CELLS, CELL = 60, 60  # of a row: columns, and characters of each
# Of a heat map, cold to hot: black, purple, red, orange, pale yellow, ever lighter.
_HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
CURVES, POINTS = 4, 160  # channels of a series, and steps of each


@dataclass(frozen=True)
class Preview:
    """A sample to look at; what its kind of data does not have is empty.

    ``image`` is a data URI (JPEG, or PNG of small images), ``cells`` are the values of a row by column,
    ``curves`` the steps of a series by channel, thinned out evenly to `POINTS`. ``heat`` is the image
    under the heat map of its prediction, ``effects`` are the parts that the prediction depends on most,
    with their effects, where it was explained.
    """

    image: str = ""
    text: str = ""
    cells: tuple[tuple[str, str], ...] = ()
    curves: tuple[tuple[str, tuple[float, ...]], ...] = ()
    heat: str = ""
    effects: tuple[tuple[str, float], ...] = ()


def is_picture(text: str) -> bool:
    """Whether a text is a picture of `image_preview`: pages show no other."""
    return len(text) <= 200_000 and bool(
        re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", text)
    )


def image_preview(pixels: npt.NDArray[np.uint8]) -> Preview:
    """Return a picture of pixels (H, W, 1 or 3), at most `SIDE` in size."""
    from PIL import Image

    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    small = max(image.size) <= SIDE // 2
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    # Artefacts of JPEG are as large as the strokes of a 28 x 28 digit.
    image.save(file, format="PNG" if small else "JPEG", quality=80)
    kind = "png" if small else "jpeg"
    return Preview(image=f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}")


def under_heat(pixels: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Return pixels (H, W, 1 or 3) in grey under a heat map (H, W) from 0 to 1, uint8 (H, W, 3)."""
    at = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(heat, at, channel) for channel in np.array(_HEAT).T], axis=2)
    mixed = 0.45 * pixels.mean(axis=2, keepdims=True) + 0.55 * colours
    out: npt.NDArray[np.uint8] = mixed.round().astype(np.uint8)
    return out


def text_preview(text: Any) -> Preview:
    """Return a text, long ones cut in the middle."""
    return Preview(text=shorten(str(text), TEXT))


def row_preview(names: Sequence[str], values: Sequence[Any]) -> Preview:
    """Return the cells of a row; a missing one is empty."""
    cells = [
        (name, "" if value is None else shorten(_cell(value), CELL))
        for name, value in zip(names[:CELLS], values[:CELLS], strict=True)
    ]
    return Preview(cells=tuple(cells))


def series_preview(channels: Sequence[str], values: npt.NDArray[Any]) -> Preview:
    """Return the first `CURVES` channels of a series (T, C)."""
    steps = np.unique(np.linspace(0, len(values) - 1, min(POINTS, len(values))).round().astype(np.int64))
    curves = values[steps].astype(np.float64).T.tolist()
    return Preview(curves=tuple(zip(channels[:CURVES], map(tuple, curves), strict=False)))


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
