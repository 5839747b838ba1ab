"""Decode an image file or raw array to the pixels of a model, the same for training, eval and predict.

In this order: read the header and refuse oversized images; decode a JPEG at a reduced scale where at
least twice the target size remains; apply the EXIF orientation; scale values of more than 8 bits to 8;
composite transparency over white; convert to grey or RGB; crop and scale in one antialiased resize. Of
an animation the first frame is used. Files are only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from dlcli.errors import BadSample
from dlcli.pixels.deep_values import ValueRange, Values, is_deep, to_8_bits, unscale, values_of
from dlcli.pixels.opening import open_image, opened, orientation, reduce, upright
from dlcli.task import ImageInput

Pixels = npt.NDArray[np.uint8]  # (H, W, C), or (H, W) of one channel

_HEADERS_CHECKED = 16

_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_GREY_MODES = ("1", "L", "LA", "La")
_MAY_BE_TRANSPARENT = ("P", "PA", "LA", "RGBA", "RGBa")


def decode(image: Path | Pixels, spec: ImageInput) -> Pixels:
    """Decode a file, or a raw uint8 array (H, W) or (H, W, C), to uint8 (H, W, C) of the spec's size.

    Raises: BadSample with the reason when the file cannot be read as an image.
    """
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = image[:, :, None]
        if image.shape == (spec.height, spec.width, spec.channels) and keeps_size(spec):
            return image
    return resize(_opened_image(image, spec), spec)


def decode_with_aspect(image: Path | Pixels, spec: ImageInput) -> tuple[Pixels, float]:
    """As `decode`, and the aspect ratio, width over height, of the image itself, upright."""
    whole = _opened_image(image, spec)
    return resize(whole, spec), whole.width / whole.height


def from_pillow(image: Image.Image) -> npt.NDArray[Any]:
    """Convert an image that is open to uint8 (H, W, C) of 1 or 3 channels, upright.

    One of more than 8 bits is its values (H, W) instead.
    """
    deep = is_deep(image)
    image.load()
    turned = orientation(image)
    if deep:
        return np.array(upright(image, turned))
    channels = 1 if image.mode in _GREY_MODES else 3
    pixels = np.array(_to_mode(upright(image, turned), channels))
    return pixels[:, :, None] if channels == 1 else pixels


def whole_image(image: Path | Pixels, spec: ImageInput) -> Pixels:
    """Decode an image to uint8 (H, W, C) at its original size, upright, with the spec's channels.

    Raises: BadSample as `decode`.
    """
    if isinstance(image, Path):
        whole = _open(image, spec, spec.channels, whole=True)
    else:
        whole = _from_array(image[:, :, None] if image.ndim == 2 else image, spec.channels)
    out: Pixels = np.array(whole, dtype=np.uint8).reshape(whole.height, whole.width, spec.channels)
    return out


def whole_values(image: Path | Pixels, spec: ImageInput) -> npt.NDArray[Any]:
    """As `whole_image`; with a fitted range of values float32 (H, W, C), from which the range is scaled.

    Grey files of more than 8 bits are as they are stored, all others what scales to their 8 bits.
    """
    pixels = whole_image(image, spec)
    if spec.value_range is None:
        return pixels
    if isinstance(image, Path) and (values := read_values(image)) is not None and values.ndim == 2:
        return np.repeat(values[:, :, None].astype(np.float32), spec.channels, axis=2)
    return unscale(pixels, spec.value_range)


def read_values(path: Path) -> Values | None:
    """The values (H, W) or (H, W, 3) of a file of more than 8 bits, upright; None for other files.

    None also for a file that cannot be read.
    """
    try:
        with opened(path) as file, open_image(file) as image:
            reduce(image, None)
            values = _deep_values(image, file, (0, 1))
            if values is None:
                return None
            turned = orientation(image)
    except BadSample:
        return None
    if turned == 1:
        return values
    if values.ndim == 2:
        return np.asarray(upright(Image.fromarray(values), turned))
    planes = [Image.fromarray(plane) for plane in np.moveaxis(values, 2, 0)]
    return np.stack([np.asarray(upright(plane, turned)) for plane in planes], axis=2)


def is_deep_file(path: Path) -> bool:
    """Whether a file has more than 8 bits a channel, by its header; False when it cannot be read."""
    try:
        with opened(path) as file, open_image(file) as image:
            return is_deep(image)
    except BadSample:
        return False


def normalize(pixels: Pixels, spec: ImageInput) -> npt.NDArray[np.float32]:
    """Normalise uint8 (N, H, W, C) to float32 (N, C, H, W): (x/255 - mean)/std, in torch's order."""
    shape = (-1, 1, 1)
    out = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    out /= np.float32(255)
    out -= np.asarray(spec.mean, dtype=np.float32).reshape(shape)
    out /= np.asarray(spec.std, dtype=np.float32).reshape(shape)
    return out


def resize(image: Image.Image, spec: ImageInput) -> Pixels:
    """Crop or squash an "L" or "RGB" image to uint8 (H, W, C) of the spec's size, in one resampling.

    Equal to resize and then crop, since the filter reads pixels outside of the crop box too.
    """
    width, height = image.size
    size = (spec.width, spec.height)
    box = (0.0, 0.0, float(width), float(height))
    if spec.resize == "crop":
        scale = min(width, height) / spec.resize_size  # source pixels per output pixel
        crop_w, crop_h = min(size[0] * scale, width), min(size[1] * scale, height)
        left, top = (width - crop_w) / 2, (height - crop_h) / 2
        box = (left, top, min(left + crop_w, width), min(top + crop_h, height))
    if image.size != size or box != (0.0, 0.0, *map(float, size)):
        image = image.resize(size, _RESAMPLE[spec.interpolation], box=box)
    out: Pixels = np.array(image, dtype=np.uint8).reshape(spec.height, spec.width, spec.channels)
    return out


def is_grayscale(path: Path) -> bool | None:
    """Whether a file is grayscale by its header; None when the header cannot be read."""
    try:
        with opened(path) as file, open_image(file) as image:
            return image.mode in (*_GREY_MODES, "I", "F") or image.mode.startswith("I;16")
    except BadSample:
        return None


def channels_of(paths: Sequence[Path]) -> int:
    """The number of channels of image files, from a few headers: 1 if all are grayscale, else 3."""
    where = np.unique(np.linspace(0, len(paths) - 1, _HEADERS_CHECKED).round().astype(int))
    checked = [is_grayscale(paths[i]) for i in where]
    grey = [is_grey for is_grey in checked if is_grey is not None]
    return 1 if grey and all(grey) else 3


def keeps_size(spec: ImageInput) -> bool:
    """Whether an array of the final size stays unchanged, without a crop."""
    return spec.resize == "squash" or spec.resize_size == min(spec.height, spec.width)


def _opened_image(image: Path | Pixels, spec: ImageInput) -> Image.Image:
    """A file or raw array in mode "L" or "RGB", upright; a JPEG possibly at a reduced scale."""
    if isinstance(image, Path):
        return _open(image, spec, spec.channels)
    return _from_array(image[:, :, None] if image.ndim == 2 else image, spec.channels)


def _open(path: Path, spec: ImageInput, channels: int, *, whole: bool = False) -> Image.Image:
    """Decode a file to mode "L" or "RGB", upright; a JPEG possibly at a reduced scale."""
    with opened(path) as file, open_image(file) as image:
        reduce(image, None if whole else spec)
        deep = _deep_values(image, file, spec.value_range)
        image.load()
        turned = orientation(image)
        eight_bits = image if deep is None else _from_values(image, deep, spec.value_range)
        return _to_mode(upright(eight_bits, turned), channels)


def _deep_values(image: Image.Image, file: BinaryIO, value_range: ValueRange | None) -> Values | None:
    """The values of an image of more than 8 bits; None for others, and colours without a range.

    Of these Pillow itself gives the high bytes.
    """
    if not is_deep(image) or (value_range is None and len(image.getbands()) > 1):
        return None

    def reopen() -> Image.Image:
        file.seek(0)
        return open_image(file)

    return values_of(image, reopen)


def _from_values(image: Image.Image, values: Values, value_range: ValueRange | None) -> Image.Image:
    """Scale the values of an image to 8 bits; its transparency stays."""
    out = Image.fromarray(to_8_bits(values, value_range))
    if "A" in image.getbands():
        out.putalpha(image.getchannel("A"))
    return out


def _to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Convert to mode "L" for one channel, "RGB" for three."""
    if image.mode in _MAY_BE_TRANSPARENT or "transparency" in image.info:
        image = _over_white(image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _over_white(image: Image.Image) -> Image.Image:
    """Composite over white: the colour of fully transparent pixels is arbitrary."""
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_array(pixels: Pixels, channels: int) -> Image.Image:
    if pixels.shape[2] not in (1, 3):
        raise BadSample(f"an image has 1 or 3 channels, this array has {pixels.shape[2]}")
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    return image.convert("L" if channels == 1 else "RGB")
