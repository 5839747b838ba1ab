"""Typed messages of whatever lists, reads or encodes data.

A command shows the message; `dlcli data` reports code and level, too, and looks at no wording.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Notice:
    """One message for the user.

    ``code`` is short and stable, for scripts. "reading", the default, is what was assumed or decided;
    "left-out" is what was not used. A kind of data may have codes of its own.
    """

    message: str
    code: str = "reading"
    level: Level = "note"

    def prefixed(self, name: str) -> Notice:
        """Return the same notice about ``name``: a file, a split, a model."""
        return replace(self, message=f"{name}: {self.message}")


def left_out(message: str) -> Notice:
    """Return the warning that some of the data is not used."""
    return Notice(message, "left-out", "warning")


def messages(notices: Iterable[Notice]) -> list[str]:
    """Return the messages alone, for a screen or a record."""
    return [notice.message for notice in notices]
