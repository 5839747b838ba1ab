"""Translations of a few samples: source, target and prediction below each other."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

from dlcli.ui import console as consoles
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.wording import one_line, printable

if TYPE_CHECKING:
    from dlcli.evaluation.metrics.base import TranslationRow

LINES = 2  # of a text, at most
_MARGIN = 16  # of the names of the lines, and what a wrapped line leaves free
_MORE = " …"


def print_translations(rows: Sequence[TranslationRow], split: str) -> None:
    """Print a block for each sample, after a blank line; long texts end after a whole word."""
    if not rows:
        return
    width = LINES * max(20, consoles.stdout().width - _MARGIN)
    consoles.stdout().print()
    print_sections(
        [
            Section(
                f"translation of {printable(split)} sample {row.input}",
                [
                    Row("source", cut(row.source, width)),
                    Row("target", cut(row.target, width)),
                    Row("prediction", cut(row.prediction, width)),
                ],
            )
            for row in rows
        ]
    )


def cut(text: str, width: int) -> str:
    """Return a text as one line of at most ``width`` columns, cut after a word; "-" for an empty one."""
    from rich.cells import cell_len, set_cell_size

    line = one_line(text)
    if cell_len(line) <= width:
        return line or "-"
    words = shorten(line, width, placeholder=_MORE)
    # A first word that is too long, as of a script without blanks, is cut inside.
    if words == _MORE.strip() or cell_len(words) > width:
        return set_cell_size(line, width - 1).rstrip() + "…"
    return words
