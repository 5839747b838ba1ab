"""Find the files that a table of images names: with or without extension, in which folder next to it.

Tables of Kaggle hold bare ids beside a folder train/; tables of Windows separate folders by backslashes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from dlcli.data.split_folders import split_of
from dlcli.pixels.formats import is_image

_MAX_FOLDERS = 50  # next to a table, that are looked into
_CHECKED = 20  # names, for the folder that holds the most


@dataclass
class ImageLocator:
    """Maps names in a table to files: below ``folder``, by the last part of the name if ``flat``."""

    folder: Path
    flat: bool
    _stems: dict[Path, dict[str, str]] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The file of a name; one that may not exist where none is found."""
        # os.path.isfile, since a cell may be a text that is too long for the name of a file.
        direct = self.folder / name
        if not self.flat and os.path.isfile(direct):
            return direct
        portable = name.replace("\\", "/")
        path = self.folder / (portable.rsplit("/", 1)[-1] if self.flat else portable)
        if os.path.isfile(path) or is_image(path.name):
            return path if os.path.isfile(path) else (direct if not self.flat else path)
        file = self._files(path.parent).get(path.name)
        return direct if file is None else path.with_name(file)

    def _files(self, folder: Path) -> dict[str, str]:
        """The images of a folder by their names without extension."""
        if folder not in self._stems:
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            self._stems[folder] = {PurePath(name).stem: name for name in names if is_image(name)}
        return self._stems[folder]


def find_locator(names: Sequence[str], parent: Path, split: str) -> tuple[ImageLocator, float]:
    """The locator that finds the most of the first names, and the share that it finds.

    Folders next to the table are tried after that of the table; that of the ``split`` first.
    """
    checked = [name for name in names if name][:_CHECKED]
    best, most = ImageLocator(parent, flat=False), -1
    for folder in _folders(parent, split):
        for flat in (False, True):
            locator = ImageLocator(folder, flat)
            count = sum(os.path.isfile(locator.path(name)) for name in checked)
            if count > most:
                best, most = locator, count
            if count == len(checked):
                return best, 1.0 if checked else 0.0
    return best, most / max(1, len(checked))


def _folders(parent: Path, split: str) -> Iterator[Path]:
    yield parent
    try:
        inner = sorted(entry for entry in parent.iterdir() if entry.is_dir())[:_MAX_FOLDERS]
    except OSError:
        return
    shown = [folder for folder in inner if not folder.name.startswith(".")]
    wanted = "train" if split == "all" else split
    for folder in sorted(shown, key=lambda folder: split_of(folder.name) != wanted):
        yield folder
        if (folder / folder.name).is_dir():
            yield folder / folder.name
