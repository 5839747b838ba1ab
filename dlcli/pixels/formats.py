"""The image file formats: those that Pillow reads without running another program."""

from __future__ import annotations

from pathlib import Path, PurePath

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

_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")


def is_image(name: str) -> bool:
    """Whether a file has the extension of an image, in lower or upper case."""
    return PurePath(name).suffix.lower() in EXTENSIONS


def has_image_content(path: Path) -> bool:
    """Whether the content of a file begins as an image of a frequent format does."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return start.startswith(_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
