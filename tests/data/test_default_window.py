"""The default window and horizon: those of long series, and shorter ones in whole seasons."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from dlcli.config import DataConfig
from dlcli.data.notices import messages
from dlcli.data.series.windows import Windows
from dlcli.data.sources import open_source


def months(count: int) -> list[str]:
    return [str(date(1949 + i // 12, i % 12 + 1, 1)) for i in range(count)]


def hours(count: int) -> list[str]:
    return [str(datetime(2024, 1, 1) + timedelta(hours=i)) for i in range(count)]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (hours(480), (96, 24)),  # as long as the defaults
        (months(144), (24, 12)),  # a quarter of 115 rows, and 14 held-out ones, in years
        (hours(300), (48, 24)),
        (hours(60), (12, 3)),  # no day fits
    ],
)
def test_the_defaults_fit_the_rows(tmp_path: Path, times: list[str], expected: tuple[int, int]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("date,x\n" + "".join(f"{time},{i % 7}\n" for i, time in enumerate(times)))
    items = open_source(DataConfig(data=str(path)), seed=0).splits["train"].items
    assert isinstance(items, Windows)
    (series,) = items.series
    assert (series.window, series.horizon) == expected
    (said, *_) = messages(series.notices)
    how = "default" if expected == (96, 24) else "fitted to the rows"
    assert f"window {expected[0]} and horizon {expected[1]} steps ({how}" in said
