"""What a page is made of. Texts are plain and are escaped when they are rendered; SVG is `Markup`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup

Text = str | Markup


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, Text]]


@dataclass(frozen=True)
class Notes:
    """Sentences; ``tone`` is "", "good", "bad" or "warning"."""

    kind: ClassVar[str] = "notes"
    lines: Sequence[str]
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows. ``words`` are the columns that hold no numbers."""

    kind: ClassVar[str] = "table"
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Text]]
    words: Sequence[int] = ()
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture; ``label`` says in words what it shows, ``legend`` names the classes of its marks."""

    caption: str
    svg: Markup
    label: str
    legend: Sequence[tuple[str, str]] = ()
    wide: bool = False


@dataclass(frozen=True)
class Figures:
    """Pictures next to each other."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Sample:
    """A sample with facts about it: an image (a data URI), a text, cells or a picture of its curves.

    ``heat`` is the image under a heat map.
    """

    name: str
    facts: Sequence[tuple[str, str]]
    image: str = ""
    heat: str = ""
    text: str = ""
    cells: Sequence[tuple[str, str]] = ()
    figure: Figure | None = None


@dataclass(frozen=True)
class Samples:
    """Samples next to each other."""

    kind: ClassVar[str] = "samples"
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Details:
    """Blocks that are shown when they are asked for, and in print."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]


Block = Facts | Notes | Table | Figures | Samples | Details


@dataclass(frozen=True)
class Section:
    """A titled part of a page; ``anchor`` is its id."""

    anchor: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


@dataclass(frozen=True)
class Page:
    """A whole page. ``tiles`` are the figures that matter most: name, value, and what it is of."""

    title: str
    subtitle: str
    tiles: Sequence[tuple[str, str, str]]
    sections: Sequence[Section]
    written: str
