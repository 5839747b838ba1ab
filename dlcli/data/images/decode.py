"""Decode an image file or raw array to the pixels of a model, the same for training, eval and predict.

In this order: read the header and refuse oversized images; decode a JPEG at a reduced scale where at
least twice the target size remains; apply the EXIF orientation; reduce 16 bits to 8 by the high byte;
composite transparency over white; convert to grey or RGB; crop and scale in one antialiased resize. Of
an animation the first frame is used. Files are only read.
"""

from __future__ import annotations

import functools
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from dlcli.data.base import Pixels
from dlcli.data.images.formats import PILLOW_FORMATS
from dlcli.errors import BadSample
from dlcli.task import ImageInput

MAX_PIXELS = (
    89_478_485  # larger images are refused; the threshold of Pillow's decompression bomb warning
)

_HEADERS_CHECKED = 16

_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# EXIF orientation to the transposition that undoes it.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_MAY_BE_TRANSPARENT = ("P", "PA", "LA", "RGBA", "RGBa")
# Exceptions of Pillow and its decoders for damaged files.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError),
    *(OverflowError, NotImplementedError, RuntimeError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


def decode(image: Path | Pixels, spec: ImageInput) -> Pixels:
    """Decode a file, or a raw uint8 array (H, W) or (H, W, C), to uint8 (H, W, C) of the spec's size.

    Raises: BadSample with the reason when the file cannot be read as an image.
    """
    if isinstance(image, Path):
        return resize(_open(image, spec, spec.channels), spec)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape == (spec.height, spec.width, spec.channels) and keeps_size(spec):
        return image
    return resize(_from_array(image, spec.channels), spec)


def whole_image(image: Path | Pixels, spec: ImageInput) -> Pixels:
    """Decode an image to uint8 (H, W, C) at its original size, upright, with the spec's channels.

    Raises: BadSample as `decode`.
    """
    if isinstance(image, Path):
        opened = _open(image, None, spec.channels)
    else:
        opened = _from_array(image[:, :, None] if image.ndim == 2 else image, spec.channels)
    out: Pixels = np.array(opened, dtype=np.uint8).reshape(opened.height, opened.width, spec.channels)
    return out


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
    _set_warnings()
    try:
        with path.open("rb") as file, Image.open(file, formats=PILLOW_FORMATS) as image:
            return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")
    except _DAMAGED:
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


def _open(path: Path, spec: ImageInput | None, channels: int) -> Image.Image:
    """Decode a file to mode "L" or "RGB", upright; with ``spec`` possibly at a reduced JPEG scale."""
    _set_warnings()
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise BadSample("it is not a regular file")
        with path.open("rb") as file:
            if not file.read(1):
                raise BadSample("the file is empty (0 bytes)")
            file.seek(0)
            with Image.open(file, formats=PILLOW_FORMATS) as image:
                _refuse_bomb(image)
                if spec is not None:
                    _draft(image, spec)
                image.load()
                return _to_mode(_upright(image), channels)
    except _DAMAGED as exc:
        raise BadSample(_reason(exc)) from exc


def _refuse_bomb(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadSample(
            f"its header claims {width} x {height} pixels, more than the {MAX_PIXELS} allowed"
        )
    if width < 1 or height < 1:
        raise BadSample(f"its header claims {width} x {height} pixels")


def _draft(image: Image.Image, spec: ImageInput) -> None:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size, at least twice the target size.

    This is much faster for large photos; the antialiased resize does the rest.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    transposed = _orientation(image) >= 5
    width, height = (image.height, image.width) if transposed else image.size
    if spec.resize == "crop":
        scale = min(width, height) / (2 * spec.resize_size)
        size = (int(width / scale), int(height / scale)) if scale > 1 else (width, height)
    else:
        size = (2 * spec.width, 2 * spec.height)
    image.draft(None, (size[1], size[0]) if transposed else size)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGED:  # damaged metadata is no reason to refuse the image
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Call it after `load`, where Pillow itself transposes TIFFs."""
    method = _UPRIGHT.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Convert to mode "L" for one channel, "RGB" for three."""
    image = _to_8_bits(image)
    if image.mode in _MAY_BE_TRANSPARENT or "transparency" in image.info:
        image = _over_white(image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert 16 bits to 8 by the high byte (Pillow's conversion saturates), and floats in [0, 1]."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise BadSample(f"its integer pixels are from {low} to {high}; only 8 and 16 bits are read")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        floats = np.asarray(image)
        if not (np.isfinite(floats).all() and floats.min() >= 0 and floats.max() <= 1):
            raise BadSample(
                f"its float pixels are from {floats.min():g} to {floats.max():g}; only 0 to 1 is "
                "supported (save it with 8 or 16 bits)"
            )
        return Image.fromarray(np.rint(floats * 255).astype(np.uint8))
    return image


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


def _reason(exc: Exception) -> str:
    if isinstance(exc, UnidentifiedImageError):
        return "it is not an image of a known format"
    if isinstance(exc, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"its header claims more than the {MAX_PIXELS} pixels allowed"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return f"damaged: {exc or type(exc).__name__}"


@functools.cache
def _set_warnings() -> None:
    """Silence Pillow's warnings about unusual files; decompression bombs are errors.

    Once for the whole process: `warnings.catch_warnings` is not thread-safe.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
