"""Numbers and names as people read them, spelled alike in the live view, the lines and the tables."""

from __future__ import annotations

import math

# Metrics that appear in narrow columns; everything that reports a metric for itself uses the full name.
SHORT_NAMES = {
    "accuracy": "acc",
    "top5_accuracy": "top5",
    "precision_macro": "precision",
    "recall_macro": "recall",
    "f1_macro": "f1",
    "balanced_accuracy": "bal_acc",
}


def printable(text: str) -> str:
    """``text`` with everything that could move the cursor or break a line spelled out.

    Folder and file names are the user's, and may hold newlines, escape sequences or bytes that are
    no UTF-8 (lone surrogates, which no stream would encode).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def sentence(text: str) -> str:
    """A message as one printable line."""
    return printable(" ".join(text.split()))


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters, cut in the middle: both ends tell names apart."""
    if len(text) <= width:
        return text
    head = width // 2
    tail = width - 1 - head
    return f"{text[:head]}…{text[len(text) - tail :]}"


def count(number: int) -> str:
    """``12,345``."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """``1 sample``, ``2,000 samples``, ``2 classes``."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def figure(value: float) -> str:
    """A loss or a score: four decimals, or four digits where that would be long."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """``3.4s``, ``34s``, ``3m05s``, ``2h05m``, ``1d03h``; ``?`` for what is not known."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def rate(per_second: float) -> str:
    """Images a second: whole numbers from 100 on, no separators, so that scripts can read them."""
    if not math.isfinite(per_second):
        return "?"
    return f"{per_second:.0f}" if per_second >= 99.95 else f"{per_second:.1f}"


def memory(mib: float) -> str:
    """``512 MiB``, ``1.2 GiB``."""
    return f"{mib:.0f} MiB" if mib < 1023.5 else f"{mib / 1024:.1f} GiB"
