"""Columns of one table that have the same name: the first keeps it, the others get a number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlcli.data.notices import Notice
from dlcli.errors import DlcliError
from dlcli.wording import listed, quoted_list

DUPLICATE_COLUMN = "duplicate-column"  # the code of notices of such columns


@dataclass(frozen=True)
class SameNames(Notice):
    """The notice of them; ``columns`` has, of each name, the columns' indices and new names."""

    columns: tuple[tuple[str, tuple[tuple[int, str], ...]], ...] = ()

    @classmethod
    def of(cls, header: Sequence[str], names: Sequence[str]) -> SameNames | None:
        """Return the notice of a header, whose columns are read as ``names``; None where all differ."""
        given = [name for name in header if name]
        columns = tuple(
            (name, tuple((i, names[i]) for i, one in enumerate(header) if one == name))
            for name in dict.fromkeys(given)
            if given.count(name) > 1
        )
        if not columns:
            return None
        renamed = [name for _, same in columns for _, name in same[1:]]
        message = f"duplicate column names were changed: {quoted_list(renamed)}"
        return cls(message, DUPLICATE_COLUMN, columns=columns)


def names_twice(notices: Iterable[Notice]) -> dict[str, dict[int, str]]:
    """Return the names that several columns of a table have: what they are read as, by their index."""
    same = (notice for notice in notices if isinstance(notice, SameNames))
    return {name: dict(columns) for notice in same for name, columns in notice.columns}


def check_target(name: str, notices: Iterable[Notice], path: Path, *, typed: bool) -> None:
    """Check that one column alone is meant by the target; ``typed``: by a name that the user gave.

    Who types what a column was renamed to means it. Raises: DlcliError that names the columns.
    """
    for twice, columns in names_twice(notices).items():
        if name == twice or (not typed and name in columns.values()):
            numbers = listed([str(index + 1) for index in columns], 6)
            others = " or ".join([*columns.values()][1:4])
            raise DlcliError(
                f"{path}: columns {numbers} are all named {twice!r}, and this is the target",
                hint=f"rename all but one of them, or take another than the first: --target {others}",
            )
