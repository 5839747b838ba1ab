"""Typed messages of code that lists, reads or encodes data.

Commands show the message; `dlcli data` also reports code and level, which do not depend on the wording.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

UNLIKE_TRAINING = "unlike-training"  # the code of notices on cells that training did not have
Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Notice:
    """One message for the user.

    ``code`` is short and stable, for scripts. "reading", the default, is about an assumption or a
    decision; "left-out" about unused data. A kind of data may define further codes.
    """

    message: str
    code: str = "reading"
    level: Level = "note"

    @property
    def is_decision(self) -> bool:
        """Whether it only says how data was read, which is normal: a note in `train`, no warning."""
        return self.code == "reading" and self.level == "note"

    def prefixed(self, name: str) -> Notice:
        """Return the same notice about ``name``: a file, a split, a model."""
        return replace(self, message=f"{name}: {self.message}")


def left_out(message: str) -> Notice:
    """Return the warning that some of the data is not used."""
    return Notice(message, "left-out", "warning")


def for_split(notices: Iterable[Notice], split: str) -> list[Notice]:
    """Return what a reader reports of a split, prefixed with its name.

    Training is not unlike itself: its rare words and missing cells are reported where it is fitted.
    """
    unlike = [n for n in notices if split != "train" or n.code != UNLIKE_TRAINING]
    return [notice.prefixed(split) for notice in unlike]


def messages(notices: Iterable[Notice]) -> list[str]:
    """Return the messages alone, for a screen or a record."""
    return [notice.message for notice in notices]
