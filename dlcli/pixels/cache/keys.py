"""What cached pixels depend on: the photo's file, and how it is decoded."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import features

from dlcli import __version__
from dlcli.task import ImageInput

Keys = npt.NDArray[np.uint64]  # (n, 2); zeros where a file has no key
NO_KEY = bytes(16)

# Raise it when other pixels come out of `pixels/decode.py`, or when the files of the cache change.
_FORMAT = 2
# A file is cached when it is older than any file system's resolution of time: what was written once more
# within the same tick would look unchanged.
SETTLED_S = 2.5
_SPEC_FIELDS = {"channels", "height", "width", "resize", "resize_size", "interpolation", "value_range"}


def decoding_key(spec: ImageInput, extra_bytes: int = 0) -> str:
    """Return 32 hex digits for all but the file: sizes, resizing, versions of dlcli and its decoders.

    ``extra_bytes`` are those of a row after its pixels.
    """
    facts = {
        "format": _FORMAT,
        "extra_bytes": extra_bytes,
        "dlcli": __version__,
        "pillow": features.version_module("pil"),
        "jpeg": features.version_codec("jpg"),
        "jpeg2000": features.version_codec("jpg_2000"),
        "webp": features.version_module("webp"),
        **spec.model_dump(mode="json", include=_SPEC_FIELDS),
    }
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_key(path: Path) -> bytes:
    """Return 16 bytes for a file as it is now, or `NO_KEY` if it is missing or was changed just now.

    They are of its path, inode, size, mtime and ctime, in nanoseconds. Unlike a digest of the content
    that costs microseconds and reads nothing, so a second run does not read the photos at all. The
    ctime is set by the system at every change, and no program can set it back (on Windows it is the time
    of creation); the inode tells two folders that changed names. Copies and moved folders are decoded
    once more.
    """
    try:
        info = path.stat()
    except OSError:
        return NO_KEY
    times, now = (info.st_mtime_ns, info.st_ctime_ns), time.time_ns()
    if any(0 <= now - changed < SETTLED_S * 1e9 for changed in times):
        return NO_KEY
    facts = "\0".join(map(str, (info.st_ino, info.st_size, *times)))
    name = os.fsencode(os.path.abspath(path))
    return hashlib.blake2b(name + b"\0" + facts.encode(), digest_size=16).digest()
