"""Moving a model that was written under a temporary path, with all its files, to its final name."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from dlcli.errors import DlcliError
from dlcli.files import TMP_PREFIX, fsync_path
from dlcli.formats.base import ModelFile


def move(file: ModelFile, target: Path) -> ModelFile:
    """Move a model, with the files next to it, to another file system if need be. Raises: OSError."""
    companions = [] if file.path.is_dir() else file.files[1:]
    for path in companions:
        shutil.move(path, target.with_name(path.name))
    shutil.move(file.path, target)
    return ModelFile(target, file.format)


def publish(file: ModelFile, output: Path) -> ModelFile:
    """Rename a model to ``output`` in the same file system, after the files next to it have their names.

    A folder replaces an older one. Under another name than it was written with, a file goes alone: its
    companions would replace those of an older model. Raises: DlcliError where a companion's name is
    taken by a file of somebody else, OSError.
    """
    companions = file.files[1:] if not file.path.is_dir() and output.name == file.path.name else ()
    for path in companions:
        target = output.with_name(path.name)
        if target.exists() and not output.exists():
            raise DlcliError(
                f"{target} exists and belongs to no {output.name}", hint="move it, or choose --output"
            )
    for path in file.files:
        fsync_path(path)
    for path in companions:
        os.replace(path, output.with_name(path.name))
    if file.path.is_dir() and output.is_dir():
        _replace_folder(file.path, output)
    else:
        os.replace(file.path, output)
    fsync_path(output.parent)
    return ModelFile(output, file.format)


def _replace_folder(staged: Path, output: Path) -> None:
    """A folder cannot be renamed onto another: the older one is moved aside, then removed."""
    with tempfile.TemporaryDirectory(prefix=TMP_PREFIX, dir=output.parent) as aside:
        os.rename(output, Path(aside, output.name))
        os.rename(staged, output)
