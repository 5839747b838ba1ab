from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from dlcli.data.notices import messages
from dlcli.data.tables.frames import (
    TABLE_SUFFIXES,
    is_table,
    looks_like_text,
    need_column,
    read_frame,
    read_head,
    split_by_column,
)
from dlcli.data.tables.split_names import split_files
from dlcli.errors import DlcliError
from dlcli.notation.charset import decode_text


def read(tmp_path: Path, content: str | bytes, name: str = "t.csv", **options: object):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    frame, notices = read_frame(path, **options)
    return frame, messages(notices)


def test_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    frame, notes = read(tmp_path, b"\xef\xbb\xbfa,b\n1,x\n")
    assert frame.columns == ["a", "b"]
    assert notes == []


def test_utf_16_with_a_mark_is_read(tmp_path):
    frame, notes = read(tmp_path, "a,b\n1,é\n".encode("utf-16"))
    assert frame.rows() == [(1, "é")]
    assert "UTF-16" in notes[0]


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [
        ("1,sister\u00f0city\n" * 3 + "plain\n" * 50, "latin-1", "ISO-8859-1"),
        ("a,b\né,1\n", "latin-1", "ISO-8859-1"),
        ("ein „Wort“ – so\n", "cp1252", "Windows-1252"),
        ("привет, мир, как дела сегодня\nхорошо, спасибо\n", "cp1251", "cp1251"),
    ],
)
def test_other_encodings_are_detected(text, codec, name):
    assert decode_text(text.encode(codec)) == (text, name)


def test_lines_in_another_encoding_are_counted(tmp_path):
    _, notes = read(tmp_path, "a,b\né,1\nb,2\nü,3\n".encode("latin-1"))
    assert notes == ["t.csv is not UTF-8: read as ISO-8859-1 (2 lines with non-ASCII characters)"]


def test_equal_and_missing_names_are_made_different(tmp_path):
    frame, notes = read(tmp_path, "a,a,,a_2\n1,2,3,4\n")
    assert frame.columns == ["a", "a_3", "column_3", "a_2"]
    assert any("duplicate" in note for note in notes)
    assert any("without a name" in note for note in notes)


def test_one_word_among_many_numbers_is_missing_and_counted(tmp_path):
    rows = "".join(f"{i}\n" for i in range(60))
    frame, notes = read(tmp_path, f"a\n{rows}oops\n")
    assert frame["a"].dtype == pl.Int64
    assert frame["a"].null_count() == 1
    assert notes == [
        "t.csv: 1 of 61 cells of column 'a' are not numbers and count as missing: 'oops' (row 60)"
    ]


def test_words_among_few_numbers_keep_the_column_one_of_words(tmp_path):
    frame, notes = read(tmp_path, "a\n1\n2\nx\n")
    assert frame["a"].to_list() == ["1", "2", "x"]
    assert notes == [
        "t.csv: 'a' is read as words: 1 of 3 cells are not numbers like the others: 'x' (row 2)"
    ]


def test_what_means_missing_among_numbers(tmp_path):
    frame, _ = read(tmp_path, "a,b\n1.5,NaN\nNA,2\n,?\n-inf,null\n")
    assert frame["a"].to_list() == [1.5, None, None, float("-inf")]
    assert frame["b"].to_list() == [None, 2, None, None]


def test_codes_with_leading_zeros_stay_words(tmp_path):
    frame, _ = read(tmp_path, "zip\n01234\n99999\n")
    assert frame["zip"].to_list() == ["01234", "99999"]


def test_quoted_newlines_commas_and_quotes_stay_in_their_cell(tmp_path):
    frame, notes = read(tmp_path, 'a,b\n1,"x,\r\ny"\n2,"say ""hi"""\n')
    assert frame["b"].to_list() == ["x,\r\ny", 'say "hi"']
    assert notes == []


def test_quotes_that_enclose_no_field_in_a_tsv(tmp_path):
    frame, notes = read(tmp_path, 'a\tb\n1\t"open\n2\tclosed"\n', "t.tsv")
    assert frame["b"].to_list() == ['"open', 'closed"']
    assert "plain characters" in notes[0]


def test_an_open_quote_over_uneven_rows_is_an_error(tmp_path):
    with pytest.raises(DlcliError, match="quoted field is not closed"):
        read(tmp_path, 'a,b\n1,"x\n2,y,z\n')


def test_uneven_and_empty_rows_are_counted(tmp_path):
    frame, notes = read(tmp_path, "a,b\n1,2\n3\n4,5,6\n\n7,\n\n\n")
    assert frame.rows() == [(1, 2), (3, None), (4, 5), (7, None)]
    assert any("1 row has more than 2 fields" in note for note in notes)
    assert any("1 row has fewer than 2 fields" in note for note in notes)
    assert any("1 empty row skipped" in note for note in notes)


def test_a_field_of_megabytes_is_read_whole(tmp_path):
    frame, _ = read(tmp_path, "a,b\n1," + "x" * 3_000_000 + "\n2,y\n")
    assert frame["b"].str.len_chars().to_list() == [3_000_000, 1]


def test_a_first_line_of_numbers_is_data(tmp_path):
    frame, notes = read(tmp_path, "5.1,3.5,setosa\n4.9,3.0,virginica\n")
    assert frame.columns == ["column_1", "column_2", "column_3"]
    assert frame.height == 2
    assert "no names" in notes[0]


def test_semicolons_and_decimal_commas(tmp_path):
    frame, notes = read(tmp_path, "a;b\n1;2,5\n2;\n")
    assert frame.rows() == [(1, 2.5), (2, None)]
    assert any("decimal point" in note for note in notes)


def test_thousands_are_numbers(tmp_path):
    frame, notes = read(tmp_path, 'n,b\n"1,234",x\n5,y\n')
    assert frame["n"].to_list() == [1234, 5]
    assert "thousands" in notes[0]


def test_times_are_read_where_the_format_is_certain(tmp_path):
    frame, _ = read(
        tmp_path, "d,e,f\n2020-01-31,31/01/2020,01/02/2020\n2020-02-01,01/02/2020,03/04/2020\n"
    )
    assert frame["d"].to_list() == [datetime(2020, 1, 31), datetime(2020, 2, 1)]
    assert frame["e"].to_list() == frame["d"].to_list()
    assert frame["f"].dtype == pl.String  # day or month first?


def test_old_line_ends(tmp_path):
    frame, _ = read(tmp_path, "a,b\r1,2\r3,4\r")
    assert frame.rows() == [(1, 2), (3, 4)]


def test_json_lines_of_unequal_keys(tmp_path):
    frame, _ = read(tmp_path, '{"a": 1, "b": "x"}\n\n{"a": 2.5}\n', "t.jsonl")
    assert frame.rows() == [(1.0, "x"), (2.5, None)]


def test_nan_of_python_in_json_lines_is_a_missing_cell(tmp_path):
    frame, _ = read(tmp_path, '{"a": 1, "b": "NaN"}\n{"a": NaN, "b": "y"}\n', "t.jsonl")
    assert frame.rows() == [(1.0, "NaN"), (None, "y")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"", "no rows"),
        ("t.csv", b"a,b\n", "a header but no rows"),
        ("t.csv", bytes(range(256)), "zero bytes"),
        ("t.jsonl", b"[1]\n", "not a JSON lines file: line 1 is no object"),
        ("t.jsonl", b'{"a": 1}\n\n{"a": \n', "line 3, character 7: Expecting value"),
        ("t.jsonl", b'{"a": Infinity}\n', "line 1: Infinity is no number of JSON"),
        ("t.parquet", b"PAR1 garbage", "cannot read"),
        ("t.csv.gz", b"\x1f\x8b damaged", "cannot read"),
        ("t.csv.gz", b"a,b\n1,2\n", "cannot read"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 100, mtime=0)[:-12], "cannot decompress"),
    ],
)
def test_what_is_no_table_is_an_error_that_names_the_file(tmp_path, name, content, says):
    with pytest.raises(DlcliError, match=says) as caught:
        read(tmp_path, content, name)
    assert name in caught.value.message
    assert read_head(tmp_path / name) is None


def test_parquet_and_gzip_hold_what_a_csv_holds(tmp_path):
    frame, _ = read(tmp_path, "a,b\n1,x\n2,\n")
    frame.write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n1,x\n2,\n"))
    assert read_frame(tmp_path / "t.parquet")[0].equals(frame)
    assert read_frame(tmp_path / "t.csv.gz")[0].equals(frame)


def test_head_is_the_beginning_even_of_a_file_cut_inside_quotes(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + '1,"{}\n{}"\n'.format("x" * 3000, "y" * 3000) * 100)
    head = read_head(path)
    assert head is not None
    assert head.equals(read_frame(path)[0].head(head.height))
    assert 10 < head.height < 100


def test_head_notices_that_a_file_changed(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    assert read_head(path).height == 1
    path.write_text("a\n1\n2\n")
    assert read_head(path).height == 2


def test_columns_requested_as_text_are_not_typed(tmp_path):
    frame, _ = read(tmp_path, "a,b\n1.50,2\n", as_text=["a"])
    assert frame.rows() == [("1.50", 2)]


def test_a_missing_column_names_the_nearest():
    with pytest.raises(DlcliError, match=r"no column 'prise' \(the target\)") as caught:
        need_column(pl.DataFrame({"price": [1]}), "prise", what="the target", path="t.csv")
    assert "'price'" in caught.value.hint


def test_text_is_distinguished_from_categories():
    sentences = [f"this is sentence number {i}" for i in range(9)]
    assert looks_like_text(pl.Series(sentences))
    assert not looks_like_text(pl.Series(["one of three words"] * 9))
    assert not looks_like_text(pl.Series([f"word{i}" for i in range(9)]))
    assert not looks_like_text(pl.Series([1, 2]))
    assert not looks_like_text(pl.Series([None], dtype=pl.String))


def test_split_column_takes_the_usual_names():
    frame = pl.DataFrame({"s": ["Train", "dev", "TEST", " train", "validation"]})
    rows = split_by_column(frame, "s", path="t.csv")
    assert {name: where.tolist() for name, where in rows.items()} == {
        "train": [0, 3],
        "val": [1, 4],
        "test": [2],
    }


@pytest.mark.parametrize(("cell", "says"), [("holdout", "'holdout'"), (None, "an empty cell")])
def test_split_column_with_another_word_is_an_error(cell, says):
    with pytest.raises(DlcliError, match=f"1 row of the split column 's' hold no split: {says}"):
        split_by_column(pl.DataFrame({"s": ["train", cell]}), "s", path="t.csv")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("a,b\n1,2\n")


def found(path: Path, suffixes=TABLE_SUFFIXES) -> dict[str, str] | None:
    files = split_files(path, suffixes)
    return None if files is None else {split: file.name for split, file in files.items()}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train.csv", "dev.csv", "test.csv"),
        ("X_TRAIN.csv", "X_VAL.csv", "X_TEST.csv"),
        ("TREC.train.csv", "TREC.validation.csv", "TREC.test.csv"),
        ("train-00000-of-00001.csv", "valid-00000-of-00001.csv", "test-00000-of-00001.csv"),
    ],
)
def test_split_files_of_a_folder_and_next_to_the_training_file(tmp_path, train, val, test):
    touch(tmp_path, train, val, test, "notes.csv")
    (tmp_path / "readme.md").write_text("")
    expected = {"train": train, "val": val, "test": test}
    assert found(tmp_path) == expected
    assert found(tmp_path / train) == expected
    assert found(tmp_path / test) == {"all": test}


def test_split_files_of_a_stem(tmp_path):
    touch(tmp_path, "X_TRAIN.ts", "X_TEST.ts", "X_eq_TRAIN.ts", "X_eq_TEST.ts")
    with pytest.raises(DlcliError, match="several data sets"):
        split_files(tmp_path, [".ts"])
    assert found(tmp_path / "X", [".ts"]) == {"train": "X_TRAIN.ts", "test": "X_TEST.ts"}
    assert found(tmp_path / "x_eq", [".ts"]) == {"train": "X_eq_TRAIN.ts", "test": "X_eq_TEST.ts"}
    assert found(tmp_path / "Y", [".ts"]) is None


def test_one_file_is_all(tmp_path):
    touch(tmp_path, "train.csv")
    assert found(tmp_path) == {"all": "train.csv"}
    assert found(tmp_path, [".ts"]) is None
    assert found(tmp_path / "train.csv") == {"all": "train.csv"}


def test_several_files_that_are_no_splits(tmp_path):
    touch(tmp_path, "a.csv", "b.csv")
    with pytest.raises(DlcliError, match=r"a\.csv, b\.csv"):
        split_files(tmp_path, TABLE_SUFFIXES)
    (tmp_path / "photos").mkdir()
    assert split_files(tmp_path, TABLE_SUFFIXES) is None


def test_two_files_for_one_split(tmp_path):
    touch(tmp_path, "train.csv", "val.csv", "dev.csv")
    with pytest.raises(DlcliError, match=r"two files for val: dev\.csv and val\.csv"):
        split_files(tmp_path, TABLE_SUFFIXES)


def test_names_of_tables():
    assert is_table(Path("A.CSV"))
    assert is_table(Path("a.tsv.gz"))
    assert not is_table(Path("a.txt"))
