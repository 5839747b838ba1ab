"""One image, or one raw array, to the pixels a model is fed, for training, `eval` and `predict` alike.

What is done, in this order: the header is read and oversized images are refused; a JPEG is decoded at
a reduced scale where at least twice the target remains; the EXIF rotation is applied; 16 bits become
8 by their high byte; transparency is laid over white; colours become grey or RGB; then one
antialiased resize cuts and scales. Of an animation it is the first frame. Files are only read.
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

MAX_PIXELS = 89_478_485  # a header that claims more is refused; Pillow's own first warning is here

_HEADERS_LOOKED_AT = 16

_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# EXIF orientation to what undoes it.
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
# What Pillow's readers raise over damaged files, or let through from the libraries below them.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError),
    *(OverflowError, NotImplementedError, RuntimeError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


def decode(image: Path | Pixels, spec: ImageInput) -> Pixels:
    """Pixels (H, W, C) uint8 of the spec's size from a file or a raw uint8 (H, W) or (H, W, C) array.

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
    """All pixels (H, W, C) uint8 of an image, upright, in the spec's colours, at its own size.

    Raises: BadSample as `decode`.
    """
    if isinstance(image, Path):
        opened = _open(image, None, spec.channels)
    else:
        opened = _from_array(image[:, :, None] if image.ndim == 2 else image, spec.channels)
    out: Pixels = np.array(opened, dtype=np.uint8).reshape(opened.height, opened.width, spec.channels)
    return out


def normalize(pixels: Pixels, spec: ImageInput) -> npt.NDArray[np.float32]:
    """uint8 (N, H, W, C) to float32 (N, C, H, W): (x/255 - mean)/std, step by step as in torch."""
    shape = (-1, 1, 1)
    out = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    out /= np.float32(255)
    out -= np.asarray(spec.mean, dtype=np.float32).reshape(shape)
    out /= np.asarray(spec.std, dtype=np.float32).reshape(shape)
    return out


def resize(image: Image.Image, spec: ImageInput) -> Pixels:
    """An "L" or "RGB" image to (H, W, C) uint8, cut or squashed as the spec says, in one resampling.

    Cutting before resampling gives what resize-then-crop gives, since the filter still sees the
    pixels outside the box.
    """
    width, height = image.size
    size = (spec.width, spec.height)
    box = (0.0, 0.0, float(width), float(height))
    if spec.resize == "crop":
        pixel = min(width, height) / spec.resize_size  # source pixels to one of the result
        cut_w, cut_h = min(size[0] * pixel, width), min(size[1] * pixel, height)
        left, top = (width - cut_w) / 2, (height - cut_h) / 2
        box = (left, top, min(left + cut_w, width), min(top + cut_h, height))
    if image.size != size or box != (0.0, 0.0, *map(float, size)):
        image = image.resize(size, _RESAMPLE[spec.interpolation], box=box)
    out: Pixels = np.array(image, dtype=np.uint8).reshape(spec.height, spec.width, spec.channels)
    return out


def is_grayscale(path: Path) -> bool | None:
    """Whether a file's header says that it has no colour; None when the header cannot be read."""
    _set_warnings()
    try:
        with path.open("rb") as file, Image.open(file, formats=PILLOW_FORMATS) as image:
            return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")
    except _DAMAGED:
        return None


def channels_of(paths: Sequence[Path]) -> int:
    """1 if all of a few headers, spread over the files, say grayscale; else 3."""
    where = np.unique(np.linspace(0, len(paths) - 1, _HEADERS_LOOKED_AT).round().astype(int))
    checked = [is_grayscale(paths[i]) for i in where]
    grey = [is_grey for is_grey in checked if is_grey is not None]
    return 1 if grey and all(grey) else 3


def keeps_size(spec: ImageInput) -> bool:
    """Whether an array of the final size stays as it is: nothing is cut off its border."""
    return spec.resize == "squash" or spec.resize_size == min(spec.height, spec.width)


def _open(path: Path, spec: ImageInput | None, channels: int) -> Image.Image:
    """The decoded image, upright, in mode "L" or "RGB"; with ``spec`` no larger than that needs it."""
    _set_warnings()
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise BadSample("it is no regular file")
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
    """Let a JPEG decode at 1/2, 1/4 or 1/8 where at least twice the target's pixels remain.

    Photos of 12 megapixels then cost a fraction; the antialiased resize still does the last halving.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    turned = _orientation(image) >= 5
    width, height = (image.height, image.width) if turned else image.size
    if spec.resize == "crop":
        scale = min(width, height) / (2 * spec.resize_size)
        want = (int(width / scale), int(height / scale)) if scale > 1 else (width, height)
    else:
        want = (2 * spec.width, 2 * spec.height)
    image.draft(None, (want[1], want[0]) if turned else want)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGED:  # damaged metadata is no reason to refuse the image
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image) -> Image.Image:
    """The image in upright orientation. After `load`, since Pillow itself turns TIFFs at loading."""
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Mode "L" for one channel, "RGB" for three."""
    image = _to_8_bits(image)
    if image.mode in _MAY_BE_TRANSPARENT or "transparency" in image.info:
        image = _over_white(image)
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16 bits keep their high byte (Pillow's own conversion saturates); floats must lie in 0..1."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise BadSample(f"its integer pixels run from {low} to {high}; 8 and 16 bits are read")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        floats = np.asarray(image)
        if not (np.isfinite(floats).all() and floats.min() >= 0 and floats.max() <= 1):
            raise BadSample(
                f"its float pixels run from {floats.min():g} to {floats.max():g}; only 0 to 1 is "
                "understood (save it with 8 or 16 bits)"
            )
        return Image.fromarray(np.rint(floats * 255).astype(np.uint8))
    return image


def _over_white(image: Image.Image) -> Image.Image:
    """Transparent pixels show white, as on a page; the colour that hides under them is arbitrary."""
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_array(pixels: Pixels, channels: int) -> Image.Image:
    if pixels.shape[2] not in (1, 3):
        raise BadSample(f"an array of {pixels.shape[2]} channels is no image; 1 and 3 are")
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    return image.convert("L" if channels == 1 else "RGB")


def _reason(exc: Exception) -> str:
    if isinstance(exc, UnidentifiedImageError):
        return "it is no image of a known format"
    if isinstance(exc, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"its header claims more than the {MAX_PIXELS} pixels allowed"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return f"damaged: {exc or type(exc).__name__}"


@functools.cache
def _set_warnings() -> None:
    """Silence Pillow's warnings about odd files; decompression bombs are errors.

    Once and for the whole process: `warnings.catch_warnings` is not safe in threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
