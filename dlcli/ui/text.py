"""Formatting of numbers and names, shared by the live view, the plain lines and the tables."""

from __future__ import annotations

import math
import os

from dlcli.wording import printable, shorten

# Metrics that appear in narrow columns; everything that reports a metric for itself uses the full name.
SHORT_NAMES = {
    "accuracy": "acc",
    "top5_accuracy": "top5",
    "precision_macro": "precision",
    "recall_macro": "recall",
    "f1_macro": "f1",
    "balanced_accuracy": "bal_acc",
    "matthews_corrcoef": "mcc",
    "roc_auc": "auc",
    "average_precision": "ap",
}


CLASS_WIDTH = 30  # characters of the name of a class in a table: with five figures it fits 80 columns


def class_name(name: str) -> str:
    """Return the name of a class for a table on a terminal, shortened in its middle."""
    return shorten(printable(name), CLASS_WIDTH)


def from_here(path: str) -> str:
    """Return a path, or code ``PATH:NAME``, relative to the working folder if that is above it."""
    try:
        here = os.path.join(os.getcwd(), "")
    except OSError:  # it was deleted
        return path
    return path.removeprefix(here) or path


def key(name: str) -> str:
    """Return a user's name as the key of a fact: printable, at most 24 characters."""
    return shorten(printable(name), 24)


def csv_cell(value: object) -> object:
    """Return a cell of a CSV file; a text that a spreadsheet would run as a formula gets an apostrophe.

    Numbers stay, also those that are texts (https://owasp.org/www-community/attacks/CSV_Injection).
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def figure(value: float) -> str:
    """Format a loss or a score: four decimals, four digits from 10 on, an exponent for tiny ones.

    Errors in the data's own units may be of any size: ``0.1234``, ``96.91``, ``104.5``, ``51234``,
    ``3.1e-05``.
    """
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    size = abs(value)
    if size >= 1e7:
        return f"{value:.3e}"
    for least, decimals in ((999.95, 0), (99.995, 1), (9.9995, 2)):
        if size >= least:
            return f"{value:.{decimals}f}"
    if size < 1e-9:  # rounding errors about zero are no figures
        return "0.0000"
    return f"{value:.1e}" if size < 0.0005 else f"{value:.4f}"


def signed(value: float) -> str:
    """Format a difference: ``+0.0123``, ``-0.4000``."""
    return figure(value) if math.isnan(value) else f"{'-' if value < 0 else '+'}{figure(abs(value))}"


def duration(seconds: float) -> str:
    """``3.4s``, ``34s``, ``3m05s``, ``2h05m``, ``1d03h``; ``?`` when unknown."""
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


def milliseconds(value: float) -> str:
    """Format a latency with three digits: ``0.0123``, ``1.23``, ``123``, ``2570``; ``-`` for none."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def speed(per_second: float) -> str:
    """Format samples per second for people: ``12,345``, ``0.38``; never 0 for something that moves."""
    if not math.isfinite(per_second):
        return "-"
    return f"{per_second:,.0f}" if per_second >= 99.95 else f"{per_second:.3g}"


def rate(per_second: float) -> str:
    """Format samples per second: integers from 100 on, no separators, so that scripts can parse them."""
    if not math.isfinite(per_second):
        return "?"
    if per_second >= 99.95:
        return f"{per_second:.0f}"
    return f"{per_second:.1f}" if per_second >= 0.95 or per_second == 0 else f"{per_second:.2g}"
