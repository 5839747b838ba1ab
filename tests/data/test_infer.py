"""How the cells of a table's columns are read: by one format of numbers or times for all of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dlcli.data.notices import messages
from dlcli.data.tables.cells import as_numbers
from dlcli.data.tables.frames import read_frame, read_head, read_typed
from dlcli.notation.numbers import NumberFormat
from dlcli.notation.times import find_times, parse_times

NUMBERS = [1165.25, 119.5, -701.0, 0.75, 12345.5, 42.0]


def column(tmp_path: Path, cells: list[str], *, separator: str = ",", other: list[str] | None = None):
    """The first column of a file, its format, and the notices of reading it."""
    others = other or [str(i) for i in range(len(cells))]
    lines = [f'"{cell}"{separator}"{more}"' for cell, more in zip(cells, others, strict=True)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([f"a{separator}b", *lines]) + "\n", encoding="utf-8")
    typed = read_typed(path)
    return typed.frame["a"], typed.formats.get("a"), messages(typed.notices)


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        (["1,165.25", "119.5", "-701", "0.75", "12,345.5", "42"], "1,234.5"),
        (["1165,25", "119,5", "-701", "0,75", "12345,5", "42"], "1234,5"),
        (["1.165,25", "119,5", "-701", "0,75", "12.345,5", "42"], "1.234,5"),
        (["1'165.25", "119.5", "-701", "0.75", "12\u2019345.5", "42"], "1'234.5"),
        (["1\u202f165,25", "119,5", "-701", "0,75", "12\u00a0345,5", "42"], "1 234,5"),
        (["1165.25", "119.5", "\u2212701", "0.75", "12345.5", "42"], "1234.5"),
        (["1,165.25", "119.50", "(701.00)", "0.75", "12,345.5", "42"], "1,234.5"),
        (["$1,165.25", "$119.50", "-$701.00", "$0.75", "$12,345.5", "$42"], "$1,234.5"),
        (["1.165,25 €", "119,5 €", "-701 €", "0,75 €", "12.345,5 €", "42 €"], "1.234,5€"),
        (["1165.25%", "119.5%", "-701%", "0.75%", "12345.5%", "42%"], "1234.5%"),
        (["1165.25", "119.5", "701-", "0.75", "12345.5", "42"], "1234.5"),
    ],
)
def test_numbers_in_the_dress_people_give_them(tmp_path, cells, form):
    values, used, notes = column(tmp_path, cells)
    assert values.to_list() == NUMBERS
    assert used == form
    assert len(notes) == 1
    assert "'a'" in notes[0]
    again = NumberFormat.of(form)
    assert str(again) == form
    assert again.parse(pl.Series(cells)).to_list() == NUMBERS


@pytest.mark.parametrize("missing", ["NA", "k.A.", "-", "", "#NV", "n/a"])
def test_a_missing_cell_does_not_change_decimal_commas(tmp_path, missing):
    values, _, _ = column(tmp_path, ["117,97", missing, "77,08"], separator=";")
    assert values.to_list() == [117.97, None, 77.08]


def test_commas_before_three_digits_are_thousands_where_smaller_numbers_have_none(tmp_path):
    values, _, _ = column(tmp_path, ["1,708", "927", "2,042"], separator=";")
    assert values.to_list() == [1708, 927, 2042]


def test_another_column_tells_what_a_comma_is(tmp_path):
    cells = ["1,708", "1,632", "2,042"]
    pointed, _, _ = column(tmp_path, cells, separator=";", other=["67.9", "65.5", "42.0"])
    assert pointed.to_list() == [1708, 1632, 2042]
    comma, _, _ = column(tmp_path, cells, separator=";", other=["67,9", "65,5", "42,0"])
    assert comma.to_list() == [1.708, 1.632, 2.042]


def test_points_are_thousands_in_a_file_of_decimal_commas(tmp_path):
    other = ["67,9", "65,5", "42,25"]
    values, form, notes = column(tmp_path, ["1.708", "927", "12.042"], separator=";", other=other)
    assert values.to_list() == [1708, 927, 12042]
    assert form == "1.234,5"
    assert any("points are read as thousands separators in 'a'" in note for note in notes)
    plain, _, _ = column(tmp_path, ["1.708", "0.927", "12.042"], separator=";", other=other)
    assert plain.to_list() == [1.708, 0.927, 12.042]


def test_two_conventions_in_a_column_leave_it_words_and_name_the_cells(tmp_path):
    values, _, notes = column(tmp_path, ["1,5", "2,25", "3.75", "4,5"])
    assert values.to_list() == ["1,5", "2,25", "3.75", "4,5"]
    assert notes == [
        "t.csv: 'a' is read as words: 1 of 4 cells are not numbers like the others: '3.75' (row 2)"
    ]


def test_percent_of_some_cells_alone_is_two_conventions(tmp_path):
    values, _, notes = column(tmp_path, ["45%", "46%", "0.47", "48%"])
    assert values.dtype == pl.String
    assert "'0.47' (row 2)" in notes[0]


def test_commas_are_no_decimal_points_among_columns_of_points(tmp_path):
    cells, other = ["1,4", "2,5", "1,5", "3,6"], ["0.25", "1.5", "0.75", "2.5"]
    values, _, notes = column(tmp_path, cells, other=other)
    assert values.to_list() == cells  # labels, say
    assert any("decimal points in no other column" in note for note in notes)
    assert column(tmp_path, cells)[0].to_list() == [1.4, 2.5, 1.5, 3.6]
    assert column(tmp_path, cells, separator=";", other=other)[0].to_list() == [1.4, 2.5, 1.5, 3.6]


def test_a_unit_that_all_cells_have_is_none_of_some(tmp_path):
    values, form, _ = column(tmp_path, ["82 kg", "69.5 kg", "NA"])
    assert values.to_list() == [82, 69.5, None]
    assert form == "1234.5kg"
    assert NumberFormat.of(form).parse(pl.Series(["7 kg", "7 lb"])).to_list() == [7, None]
    assert column(tmp_path, ["82 kg", "69.5 lb", "3 kg"])[0].dtype == pl.String


def test_numbers_of_telephones_are_words(tmp_path):
    assert column(tmp_path, ["555 237 682", "555 882 164"])[0].dtype == pl.String
    assert column(tmp_path, ["1 237 682", "555 882 164"])[0].to_list() == [1237682, 555882164]


def test_a_format_that_is_known_is_not_inferred_again():
    assert as_numbers(pl.Series(["1,708"]), "1,234.5")[0].to_list() == [1708]
    assert as_numbers(pl.Series(["1,708"]), "1234,5")[0].to_list() == [1.708]
    assert as_numbers(pl.Series(["1,708", "1,7", "NA"]), "1234.5")[0].to_list() == [1708, None, None]
    assert as_numbers(pl.Series(["1.708", "1.7", "NA"]), "1234,5")[0].to_list() == [1708, None, None]


TIMES = [datetime(2020, 3, 25, 13, 5), datetime(2021, 11, 2, 0, 0), datetime(2020, 1, 3, 12, 30)]


@pytest.mark.parametrize(
    "form",
    [
        *("%d/%m/%Y %H:%M", "%m/%d/%Y %I:%M %p", "%d.%m.%y %H:%M", "%d %b %Y %H:%M:%S"),
        *("%B %d, %Y %I:%M:%S %p", "%d-%b-%y %H:%M", "%Y-%m-%dT%H:%M:%SZ", "%a, %d %b %Y %H:%M:%S GMT"),
        "%Y/%m/%d %H:%M",
    ],
)
def test_times_in_the_dress_people_give_them(form):
    cells = pl.Series([time.strftime(form) for time in TIMES])
    times = find_times(cells)
    assert times is not None
    assert times.other is None
    assert times.times.to_list() == TIMES
    # The format is complete: it reads a single cell alone.
    assert parse_times(cells.tail(1), times.format).to_list() == TIMES[-1:]


@pytest.mark.parametrize(
    ("cells", "months"),
    [
        (["1970 Q1", "1970 Q2", "1971 Q4"], [(1970, 1), (1970, 4), (1971, 10)]),
        (["Q3 2020", "Q4 2020", "Q1 2021"], [(2020, 7), (2020, 10), (2021, 1)]),
        (["2020-05", "2020-06", "2021-01"], [(2020, 5), (2020, 6), (2021, 1)]),
        (["Jan 2020", "Feb 2020", "May 2021"], [(2020, 1), (2020, 2), (2021, 5)]),
        (["January-20", "March-20", "May-21"], [(2020, 1), (2020, 3), (2021, 5)]),
    ],
)
def test_months_and_quarters_are_their_first_day(cells, months):
    times = find_times(pl.Series(cells))
    assert times.times.to_list() == [datetime(*month, 1) for month in months]


def test_the_day_is_first_where_one_cell_shows_it_and_then_for_all(tmp_path):
    values, form, notes = column(tmp_path, ["25/03/2020", "03/04/2020", "04/01/2021"])
    assert form == "%d/%m/%Y"
    assert values[1] == datetime(2020, 4, 3)
    assert notes == ["t.csv: times in 'a' are read as %d/%m/%Y"]


def test_day_or_month_first_that_nothing_shows_is_said(tmp_path):
    values, _, notes = column(tmp_path, ["05/03/2020", "03/04/2020", "04/01/2021"])
    assert values.dtype == pl.String
    assert "'05/03/2020' may be %d/%m/%Y or %m/%d/%Y" in notes[0]
    assert "data.formats" in notes[0]


def test_two_digits_are_no_year_21():
    assert find_times(pl.Series(["20.03.21", "01.12.19"])).times.to_list()[0] == datetime(2021, 3, 20)


def test_one_bad_stamp_of_many_is_missing_and_its_row_is_named(tmp_path):
    start = datetime(2020, 1, 1)
    cells = [(start + timedelta(hours=i)).strftime("%Y-%m-%d %H:%M") for i in range(600)]
    cells[417] = "2020-13-45 25:61"
    values, _, notes = column(tmp_path, cells)
    assert values.dtype == pl.Datetime
    assert values.null_count() == 1
    assert any("'2020-13-45 25:61' (row 417)" in note for note in notes)


def test_times_of_day_and_durations_are_seconds(tmp_path):
    values, form, _ = column(tmp_path, ["00:00:01", "02:46:38", "30:00:00"])
    assert as_numbers(values)[0].to_list() == [1, 9998, 108000]
    assert as_numbers(pl.Series(["12:00 AM", "1:30 pm"]), "%I:%M %p")[0].to_list() == [0, 48600]
    assert as_numbers(pl.Series(["02:46:38"]), form)[0].to_list() == [9998]


@pytest.mark.parametrize("clock", ["%H:%M:%S", "%H.%M.%S", "%I:%M %p"])
def test_a_date_and_a_time_of_day_in_two_columns_are_one_time(tmp_path, clock):
    start = datetime(2004, 3, 10, 18)
    times = [start + timedelta(hours=i) for i in range(60)]
    path = tmp_path / "t.csv"
    rows = [f"{t:%d/%m/%Y};{t.strftime(clock)};{i},5;;" for i, t in enumerate(times)]
    path.write_text("\n".join(["Date;Time;CO;;", *rows]))
    frame, notices = read_frame(path)
    assert frame.columns == ["Date", "CO"]
    assert frame["Date"].to_list() == times
    assert any("are read together" in note for note in messages(notices))
    assert read_head(path).columns == ["Date", "CO"]
    assert read_typed(path).frame.columns == ["Date", "Time", "CO"]
    path.write_text(path.read_text().replace("Time", "lap"))
    assert read_frame(path)[0].columns == ["Date", "lap", "CO"]


def test_accents_in_two_unicode_forms_are_one_word(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\ncaf\u00e9,1\ncafe\u0301,2\n", encoding="utf-8")
    assert read_typed(path).frame["a"].n_unique() == 1
    pl.DataFrame({"a": ["caf\u00e9", "cafe\u0301"]}).write_parquet(tmp_path / "t.parquet")
    assert read_typed(tmp_path / "t.parquet").frame["a"].n_unique() == 1


def test_the_time_grows_with_the_cells_and_not_with_the_square_of_the_columns(tmp_path):
    """Counted in calls of polars, which take the time: a busy machine counts alike."""
    import cProfile
    import pstats

    calls = []
    for width in (200, 800):
        rows = np.random.default_rng(0).normal(size=(5, width))
        path = tmp_path / f"{width}.csv"
        lines = [",".join(f"g{i}" for i in range(width)), *(",".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines))
        profile = cProfile.Profile()
        profile.runcall(read_typed, path)
        calls.append(pstats.Stats(profile).total_calls)
    assert calls[1] < 4.5 * calls[0]
