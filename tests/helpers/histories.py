"""Histories for a forecast by what they have next to the channels: times, and what looks like them."""

from __future__ import annotations

from collections.abc import Iterator

import tiny

from dlcli.task import SeriesInput

DAYS = tuple(f"2024-01-{day:02}" for day in (5, 3, 8, 1, 2, 7, 6, 4))
HOURS = tuple(f"2024-01-01T{hour}" for hour in ("10:00:00+02:00", "09:30:00+01:00", "07:00:00Z"))
# Names and the cells of each column, repeated to eight rows.
COLUMNS: tuple[tuple[str, *tuple[tuple[str, ...], ...]], ...] = (
    ("day", DAYS),
    ("temp", ("12.5", "11", "9", "10")),  # numbers are times by their name alone
    ("temp,day", ("12.5", "11", "9", "10"), DAYS),
    ("score", ("10-4", "9-3", "1-4")),
    ("price", ('"1.234,5"', '"1.134,5"')),
    ("time", ("10:00", "9:00", "11:00")),
    ("time", tuple("87654321")),
    ("born,date", ("1999-03-01", "1980-01-01"), DAYS),  # by its name
    ("a,b", DAYS, DAYS[::-1]),  # either could be
    ("a,b", DAYS, tuple(sorted(DAYS, reverse=True))),  # the one that is in order
    ("at", tuple(HOURS[row % 3].replace("-01T", f"-0{row // 3 + 1}T") for row in range(8))),
    ("at", tuple(f"{day} {hour}:30" for day, hour in zip(DAYS, "45678901", strict=True))),
    ("month", tuple(f"2024-{month}" for month in ("03", "1", "02", "11", "5", "4", "12", "6"))),
    ("note", ("2024", "spring")),
)
# A channel is no column of times, whatever its name.
HISTORY_TASK = tiny.make_task(
    SeriesInput(channels=("u", "ds"), mean=(0.0, 0.0), std=(1.0, 1.0), length=8),
    "forecast",
    targets=("u",),
    horizon=2,
)


def histories() -> Iterator[str]:
    """CSV of eight rows whose values tell their order; one value is infinite, so missing."""
    for names, *columns in COLUMNS:
        lines = [f"{names},u,ds\n"]
        for row in range(8):
            cells = [column[row % len(column)] for column in columns]
            lines.append(f"{','.join(cells)},{row * row % 7}.5,{'1e999' if row == 4 else row % 3}\n")
        yield "".join(lines)
