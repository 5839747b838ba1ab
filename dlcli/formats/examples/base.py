"""What a format says of the short programs that can be written next to its files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.card import Card
from dlcli.errors import UsageError

# What --example takes. The program for browsers is a format of its own, a folder.
WEB = "web"
LANGUAGES = ("python", "cpp", WEB, "android", "ios")


def _fits_all(card: Card, *, embedded: bool) -> None:
    """For programs that any model of a format can have."""


@dataclass(frozen=True)
class Example:
    """A program in one language.

    Attributes:
        ending: Of the program's file.
        write: The text, for a file and its card.
        check: Raises UsageError for a card that no short program can serve; ``embedded`` says whether
            the file takes raw inputs, which a card does not say before its file is written.
    """

    ending: str
    write: Callable[[Path, Card], str]
    check: Callable[..., None] = _fits_all


def check_languages(names: Iterable[str]) -> None:
    """Raises: UsageError for a language that no program is written in."""
    for name in names:
        if name not in LANGUAGES:
            raise UsageError(
                f"--example {name}: there is no program of that name",
                hint=f"there is {', '.join(LANGUAGES)}",
            )


def render(template: str, **values: Any) -> str:
    """A template of this package with values in it. A value that it lacks is an error of dlcli's."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # no command but export needs it

    environment = Environment(
        loader=PackageLoader("dlcli.formats.examples"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # programs are no pages; names of others are escaped by `string`
    )
    environment.filters.update(string=string, strings=strings, kotlin=_kotlin, python=ascii)
    return environment.get_template(template).render(**values)


def string(text: str) -> str:
    """A literal of C++ and Swift, and but for "$" of Kotlin.

    Control characters besides tab and line ends, which each language writes in its own way, become
    U+FFFD.
    """
    plain = re.sub(r"[^\t\n\r\x20-\x7e\x80-\U0010ffff]", "\ufffd", text)
    return json.dumps(plain, ensure_ascii=False)


def _kotlin(literals: str) -> str:
    """Literals for Kotlin, where "$" begins the name of a variable."""
    return literals.replace("$", "\\$")


def strings(texts: Iterable[str], *, width: int = 72) -> str:
    """Literals of `string` with commas between them, on lines of up to ``width`` characters."""
    lines = [""]
    for literal in map(string, texts):
        if lines[-1] and len(lines[-1]) + len(literal) > width - 6:
            lines.append("")
        lines[-1] += f"{literal}, "
    return "\n    ".join(line.strip() for line in lines).removesuffix(",")
