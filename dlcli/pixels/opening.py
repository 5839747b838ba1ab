"""Open image files with Pillow, within a limit of memory; a large JPEG at a reduced scale."""

from __future__ import annotations

import functools
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from dlcli.errors import BadSample
from dlcli.pixels.formats import PILLOW_FORMATS
from dlcli.task import ImageInput

# Larger images are refused, unless a reduced scale makes them smaller; the threshold of Pillow's
# decompression bomb warning.
MAX_PIXELS = 89_478_485
# Of the buffers of a JPEG while it is decoded: a progressive one of 108 megapixels takes 620 MiB.
MAX_BYTES = 3 * 256 * 2**20

_JPEG_START = b"\xff\xd8\xff"
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
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# Exceptions of Pillow and its decoders for damaged files.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError),
    *(OverflowError, NotImplementedError, RuntimeError, struct.error, zlib.error),
    *_BOMBS,
)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file with content. Raises: BadSample, also for what Pillow raises inside."""
    _set_warnings()
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise BadSample("it is not a regular file")
        with path.open("rb") as file:
            if not file.read(1):
                raise BadSample("the file is empty (0 bytes)")
            file.seek(0)
            yield file
    except _DAMAGED as exc:
        raise BadSample(_reason(exc)) from exc


def open_image(file: BinaryIO) -> Image.Image:
    """Read the header of an image, also of a JPEG of more pixels than Pillow opens."""
    try:
        return Image.open(file, formats=PILLOW_FORMATS)
    except _BOMBS:
        file.seek(0)
        is_jpeg = file.read(len(_JPEG_START)) == _JPEG_START
        file.seek(0)
        if not is_jpeg:
            raise
        return JpegImagePlugin.JpegImageFile(file)


def reduce(image: Image.Image, spec: ImageInput | None) -> None:
    """Let a large JPEG be decoded at 1/2, 1/4 or 1/8 of its size, at least twice that of ``spec``.

    This is much faster for large photos; the antialiased resize does the rest. Without ``spec`` only one
    of more than `MAX_PIXELS` is reduced. Raises: BadSample for what is too large nevertheless.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise BadSample(f"its header claims {width} x {height} pixels")
    if image.format not in ("JPEG", "MPO"):
        if width * height > MAX_PIXELS:
            raise BadSample(
                f"its header claims {width} x {height} pixels, more than the {MAX_PIXELS} allowed"
            )
        return
    coefficients = _coefficient_bytes(image)
    if spec is not None:
        _draft(image, spec)
    elif width * height > MAX_PIXELS:
        image.draft(None, (width // 2, height // 2))
    needed = image.width * image.height * len(image.getbands()) + coefficients
    if needed > MAX_BYTES:
        raise BadSample(
            f"its {width} x {height} pixels take {needed >> 20} MiB to decode, more than the "
            f"{MAX_BYTES >> 20} MiB allowed"
        )


def orientation(image: Image.Image) -> int:
    """The EXIF orientation from 1 to 8; 1 where the metadata is missing or damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (*_DAMAGED, TypeError):  # damaged metadata is no reason to refuse the image
        return 1
    return value if isinstance(value, int) else 1


def upright(image: Image.Image, exif_orientation: int) -> Image.Image:
    """Undo an EXIF orientation, read after `load`, where Pillow itself transposes TIFFs."""
    method = _UPRIGHT.get(exif_orientation)
    return image if method is None else image.transpose(method)


def _coefficient_bytes(image: Image.Image) -> int:
    """Bytes of the coefficients that a progressive JPEG holds in memory at any scale, else 0."""
    if not image.info.get("progressive"):
        return 0
    layers: list[tuple[int, ...]] = getattr(
        image, "layer", []
    )  # (id, horizontal, vertical sampling, table) of each channel
    samples = [layer[1] * layer[2] for layer in layers] or [1] * len(image.getbands())
    return 2 * image.width * image.height * sum(samples) // max(samples)


def _draft(image: Image.Image, spec: ImageInput) -> None:
    transposed = orientation(image) >= 5
    width, height = (image.height, image.width) if transposed else image.size
    if spec.resize == "crop":
        scale = min(width, height) / (2 * spec.resize_size)
        size = (int(width / scale), int(height / scale)) if scale > 1 else (width, height)
    else:
        size = (2 * spec.width, 2 * spec.height)
    image.draft(None, (size[1], size[0]) if transposed else size)


def _reason(exc: Exception) -> str:
    if isinstance(exc, UnidentifiedImageError):
        return "it is not an image of a known format"
    if isinstance(exc, _BOMBS):
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
