"""Which files count as images: what Pillow reads without running another program."""

from __future__ import annotations

from pathlib import PurePath

EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".avif"),
        *(".qoi", ".pcx"),
    }
)

# Pillow's names for them. The list also keeps out formats whose readers start a program
# (Ghostscript, for an EPS file that calls itself .jpg). MPO photos come as JPEG.
PILLOW_FORMATS = (
    *("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM"),
    *("JPEG2000", "AVIF", "QOI", "PCX", "TGA"),
)


def is_image(name: str) -> bool:
    """Whether a file's extension is one of an image, in capitals or not."""
    return PurePath(name).suffix.lower() in EXTENSIONS
