"""Image inputs of `predict`: files, folders, globs and tables, in the order of the arguments."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlcli.data.base import Listed, Samples
from dlcli.data.images.manifest import image_paths
from dlcli.data.source_rows import SourceRows
from dlcli.data.tables.frames import is_table
from dlcli.errors import DlcliError
from dlcli.pixels.formats import is_image
from dlcli.wording import listed


def image_inputs(arguments: Sequence[str]) -> Samples:
    """The images that the arguments name, without targets; ids are the paths as listed.

    Raises: DlcliError as `find_images` does.
    """
    parts = _find(arguments)
    files = [file for _, _, part in parts for file in part]
    return Samples(
        ids=tuple(files),
        targets=np.zeros(0, dtype=np.int64),
        items=Listed(tuple(Path(file) for file in files)),
        source_rows=SourceRows.of([(name if table else None, len(part)) for name, table, part in parts]),
    )


def find_images(arguments: Sequence[str]) -> list[str]:
    """The files that the arguments name, in order: files, folders (their images, at any depth), globs.

    Of a table of image files they are those of its rows, also of those without one. A name that does not
    exist, and a folder or pattern without images next to others that have some, stay in the list and are
    reported like unreadable files. Raises: DlcliError when there is no image at all, a folder cannot be
    listed, or a table has no column of image files.
    """
    return [file for _, _, part in _find(arguments) for file in part]


def _find(arguments: Sequence[str]) -> list[tuple[str, bool, list[str]]]:
    """Each argument, whether it is a table, and the files that it names, as `find_images`."""
    parts: list[tuple[str, bool, list[str]]] = []
    empty: list[str] = []
    for argument in arguments:
        path = Path(os.path.expanduser(argument))
        table = is_table(path) and path.is_file()
        if table:
            new = [str(file) for file in image_paths(path)]
        elif os.path.isdir(argument):
            new = _images_below(argument)
        elif os.path.lexists(argument) or not glob.has_magic(argument):
            new = [argument]
        else:
            matches = sorted(glob.iglob(os.path.expanduser(argument), recursive=True))
            new = [path for path in matches if os.path.isfile(path) and is_image(path)]
        if not new:
            empty.append(argument)
        parts.append((argument, table, new or [argument]))
    if len(empty) == len(arguments):
        raise DlcliError(f"{listed(empty, 5)} holds no images", hint="give files, folders or globs")
    return parts


def why_no_image(name: str) -> str | None:
    """The reason why an argument has no image; None for a file, whose reader gives the reason."""
    if os.path.isdir(name):
        return "the folder holds no images"
    if glob.has_magic(name) and not os.path.lexists(name):
        return "no image matches the pattern"
    return None


def _cannot_list(exc: OSError) -> None:
    # os.walk would leave the folder out and say nothing.
    raise DlcliError(f"cannot list {exc.filename}: {exc.strerror}") from exc


def _images_below(folder: str) -> list[str]:
    """Images at any depth, sorted; hidden names and linked folders are passed over."""
    paths: list[str] = []
    for here, folders, names in os.walk(folder, onerror=_cannot_list):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "__MACOSX")
        paths += [
            os.path.join(here, name)
            for name in sorted(names)
            if is_image(name) and not name.startswith(".")
        ]
    return paths
