"""Words of messages, spelled alike everywhere: plurals, lists, sizes, the first line of an exception."""

from __future__ import annotations

from collections.abc import Sequence

_JOINERS = "\u200c\u200d"  # zero width non-joiner and joiner


def printable(text: str) -> str:
    """Return ``text`` with everything that could move the cursor or break a line escaped.

    Folder and file names are the user's, and may hold newlines, escape sequences or bytes that are
    no UTF-8 (lone surrogates, which no stream would encode). The joiners of emoji and of scripts such as
    Persian stay: they only shape the characters beside them.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def printable_lines(text: str) -> str:
    """Return ``text`` with each of its lines `printable`; tabs become blanks."""
    return "\n".join(printable(line.replace("\t", "    ")) for line in text.split("\n"))


def one_line(text: str) -> str:
    """Return a message as one printable line."""
    return printable(" ".join(text.split()))


def first_line(exc: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type."""
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]


def shorten(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` characters, cut in the middle: both ends tell names apart."""
    if len(text) <= width:
        return text
    head = width // 2
    tail = width - 1 - head
    return f"{text[:head]}…{text[len(text) - tail :]}"


def count(number: int) -> str:
    """``12,345``."""
    return f"{number:,}"


def number(value: float) -> str:
    """Return a value in the data's own units: six digits, large ones whole: ``452600``, ``-1.25``."""
    return f"{value:.0f}" if 1e5 <= abs(value) < 1e12 else f"{value:.6g}"


def plural(number: int, noun: str) -> str:
    """``1 sample``, ``2,000 samples``, ``2 classes``, ``3 categories``."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("series"):
        return f"{number:,} {noun}"
    if noun.endswith("y"):
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """``red, green, and 7 more``: the first ``most`` names."""
    shown = ", ".join(printable(name) for name in names[:most])
    return f"{shown}, and {count(len(names) - most)} more" if len(names) > most else shown


def quoted(text: str, width: int = 40) -> str:
    """Return ``text`` in quotes and on one line, shortened to ``width`` characters."""
    return repr(shorten(" ".join(text.split()), width))


def quoted_list(names: Sequence[str], most: int = 5) -> str:
    """``'red', 'green', and 7 more``: the first ``most`` names in quotes."""
    return listed([quoted(name) for name in names], most)


def size(size_bytes: int) -> str:
    """Return the size of a file in decimal units, three digits: ``412 B``, ``44.8 MB``, ``2.88 MB``."""
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= 0.9995 * divisor:
            value = size_bytes / divisor
            return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"
    return f"{size_bytes} B"


def memory(mib: float) -> str:
    """Return an amount of memory in binary units: ``512 MiB``, ``1.2 GiB``."""
    return f"{mib:.0f} MiB" if mib < 1023.5 else f"{mib / 1024:.1f} GiB"
