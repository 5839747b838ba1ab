"""The image file formats: those that Pillow reads without running another program."""

from __future__ import annotations

from pathlib import PurePath

EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".avif"),
        *(".qoi", ".pcx"),
    }
)

# Pillow's names of these formats. The list excludes formats whose readers start a program (Ghostscript
# for EPS, whatever the extension). MPO files are read as JPEG.
PILLOW_FORMATS = (
    *("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM"),
    *("JPEG2000", "AVIF", "QOI", "PCX", "TGA"),
)


def is_image(name: str) -> bool:
    """Whether a file has the extension of an image, in lower or upper case."""
    return PurePath(name).suffix.lower() in EXTENSIONS
