"""Files of other programs in commands that are given data: a temporary copy with a card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from dlcli.errors import UsageError

if TYPE_CHECKING:
    from dlcli.formats.base import ModelFile


@contextmanager
def adopted_for(
    files: Sequence[ModelFile], data: str | None, *, target: str | None = None, trust: bool = False
) -> Iterator[tuple[list[ModelFile], list[str]]]:
    """The files themselves; where one has no card and ``data`` is given, a temporary copy with one.

    ``target`` is the column of ``data`` that it predicts. To its user a copy goes by the file's own
    path. Yields what was assumed too. Raises: as `adopt`; UsageError for a target where none is copied.
    """
    if target is not None and (data is None or not any(file.is_foreign for file in files)):
        raise UsageError(
            f"--target {target}: {files[0].path} has a card, which says what it predicts"
            if data is not None and files
            else f"--target {target} is a column of --data, which is missing",
            hint="leave --target out" if data is not None else "add --data TABLE",
        )
    with ExitStack() as stack:
        opened, notes = list(files), []
        for number, file in enumerate(files):
            if data is None or not file.is_foreign:
                continue
            from dlcli.config import AdoptConfig
            from dlcli.deploy.adopt.adopt import adopt
            from dlcli.files import temporary_folder
            from dlcli.runs.folder import as_typed

            folder = stack.enter_context(temporary_folder())
            copy = adopt(
                file, AdoptConfig(data=data, target=target), folder / file.path.name, trust=trust
            )
            words = "; ".join((*copy.assumed, *copy.notes))
            other = f"other choices: dlcli adopt {as_typed(file.path)} --help"
            notes.append(f"{file.path.name} has no card: {words}; {other}")
            opened[number] = replace(file, stored=copy.file.path)
        yield opened, notes
