"""Separators, headers and the lines above them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlcli.data.notices import messages
from dlcli.data.tables.frames import read_frame

ROWS = [("1", "2.5", "red"), ("3", "4.25", "blue"), ("5", "6.75", "red")]


def read(tmp_path: Path, text: str, **options: object):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    frame, notices = read_frame(path, **options)
    return frame, messages(notices)


def lines(separator: str, header: str = "a{0}b{0}c") -> list[str]:
    return [header.format(separator), *(separator.join(row) for row in ROWS)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_are_detected(tmp_path, separator):
    frame, _ = read(tmp_path, "\n".join(lines(separator)))
    assert frame.columns == ["a", "b", "c"]
    assert frame.rows() == [(1, 2.5, "red"), (3, 4.25, "blue"), (5, 6.75, "red")]


@pytest.mark.parametrize(
    "above",
    [
        ["sep=;"],
        ["Sales of 2020, all shops"],
        ["Report", "", "made by hand, on Monday", ""],
        ["# a comment", "# another, with commas, and; semicolons"],
    ],
)
def test_lines_above_the_header_are_skipped(tmp_path, above):
    frame, notes = read(tmp_path, "\n".join([*above, *lines(";")]))
    assert frame.columns == ["a", "b", "c"]
    assert frame.height == 3
    assert above[0].startswith("sep") or any("above the header skipped" in note for note in notes)


def test_separators_at_the_ends_of_lines_make_no_column(tmp_path):
    for header in ("a;b;c", "a;b;c;"):
        frame, notes = read(tmp_path, "\n".join([header, *(";".join(row) + ";" for row in ROWS)]))
        assert frame.columns == ["a", "b", "c"]
        assert not any("ignored" in note for note in notes)


def test_a_header_may_hold_other_separators(tmp_path):
    frame, _ = read(tmp_path, "\n".join(lines(";", "size, net{0}price{0}colour, outside")))
    assert frame.columns == ["size, net", "price", "colour, outside"]


def test_commas_in_numbers_do_not_separate_where_semicolons_do(tmp_path):
    frame, _ = read(tmp_path, "4,9;3,1;1,5;red\n6,2;3,0;3,8;green\n7,4;3,2;5,4;blue\n")
    assert frame.rows()[0] == (4.9, 3.1, 1.5, "red")
    assert frame.height == 3


def test_labels_in_a_cell_do_not_separate(tmp_path):
    frame, _ = read(tmp_path, "x,labels\n1,cat|dog\n2,cat|bird\n3,dog|bird\n")
    assert frame.columns == ["x", "labels"]


def test_names_of_rows_without_a_header_of_their_own(tmp_path):
    text = "\n".join(["a,b", *(f"{name},{i},{i * 0.5}" for i, name in enumerate("xyz"))])
    frame, notes = read(tmp_path, text)
    assert frame.columns == ["column_1", "a", "b"]
    assert frame["a"].to_list() == [0, 1, 2]
    assert any("one field more than the header" in note for note in notes)


@pytest.mark.parametrize(
    "text",
    [
        "61, Private, 34, >50K\n17, Private, 44, <=50K\n27, State, 16, >50K\n",
        '"0","67","NO_QUERY","one text"\n"4","68","NO_QUERY","two text"\n"0","69","NO_QUERY","three"\n',
        "p,x,s\ne,x,y\np,b,s\n",
        "2020-01-01,5,a\n2020-01-02,7,b\n2020-01-03,5,a\n",
    ],
)
def test_a_first_line_whose_cells_come_again_below_is_a_row(tmp_path, text):
    frame, notes = read(tmp_path, text)
    assert frame.height == 3
    assert frame.columns[0] == "column_1"
    assert any("no names" in note for note in notes)
    assert read(tmp_path, text, header=True)[0].height == 2


@pytest.mark.parametrize(
    "text",
    [
        "age,work,label\n61,Private,yes\n17,State,no\n",
        "country,2019,2020\nA,5,6\nB,7,8\n",
        "a,b\na,b\nx,y\n",
        "name,colour\ntom,red\nann,blue\n",
    ],
)
def test_a_header_stays_one(tmp_path, text):
    frame, _ = read(tmp_path, text)
    assert frame.columns == text.split("\n")[0].split(",")
    assert read(tmp_path, text, header=False)[0].height == frame.height + 1
