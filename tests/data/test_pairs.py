"""Pairs of texts: how they are found, and that prefix and targets are one sequence moved by one."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.kinds import KINDS, ModelNeeds, ReadOptions, find_kind
from dlcli.data.notices import messages
from dlcli.data.pairs.kind import PairsReader, inputs
from dlcli.data.sources import open_other, open_source
from dlcli.data.text.tokens import decode
from dlcli.errors import DlcliError
from dlcli.task import END, PAD, START, UNKNOWN, PairsInput, TaskSpec

NUMBERS = [
    ("one red house", "ein rotes Haus"),
    ("two old dogs run", "zwei alte Hunde rennen"),
    ("three of my good friends sing", "drei meiner guten Freunde singen"),
    ("four", "vier"),
]


def rows(times: int = 5) -> list[tuple[str, str]]:
    return [(f"{a} {i}", f"{i} {b}") for i in range(times) for a, b in NUMBERS]


def table(path: Path, names: tuple[str, str] = ("english", "german")) -> Path:
    lines = ["\t".join(names), *("\t".join(pair) for pair in rows())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def sides(folder: Path, stem: str, times: int = 5, names: tuple[str, str] = ("en", "de")) -> Path:
    folder.mkdir(exist_ok=True)
    for side, name in enumerate(names):
        text = "\n".join(pair[side] for pair in rows(times)) + "\n"
        (folder / f"{stem}.{name}").write_text(text, encoding="utf-8")
    return folder


def opened(path: Path, **values: Any) -> DataSource:
    return open_source(DataConfig.model_validate({"data": str(path), **values}), seed=0)


def fitted(source: DataSource, **values: Any) -> tuple[TaskSpec, PairsInput, list[str]]:
    config = TrainConfig(data=DataConfig.model_validate(values))
    task, notices = KINDS.get("pairs").fit(source, config, ModelNeeds("any"))
    assert isinstance(task.input, PairsInput)
    return task, task.input, messages(notices)


def all_pairs(source: DataSource) -> dict[str, tuple[str, str]]:
    return {
        id_: pair
        for part in source.splits.values()
        for id_, pair in zip(part.ids, part.items.values, strict=True)  # type: ignore[attr-defined]
    }


def kind_name(path: Path, **values: Any) -> str | None:
    kind = find_kind(path, DataConfig.model_validate(values))
    return None if kind is None else kind.name


def test_a_table_of_two_texts(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "x.tsv"))
    assert (source.kind, source.task, source.class_names) == ("pairs", "seq2seq", ())
    assert source.options == {"text": "english", "target": "german"}
    assert all_pairs(source) == {str(i): pair for i, pair in enumerate(rows())}
    other_way = opened(tmp_path / "x.tsv", kind="pairs", text="german", target="english")
    assert all_pairs(other_way)["0"] == rows()[0][::-1]
    assert kind_name(tmp_path / "x.tsv", task="classification") != "pairs"


def test_columns_called_source_and_target_need_no_other_sign(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("n,target,source\n" + "".join(f"{i},{i}b{i},word{i}\n" for i in range(20)))
    source = opened(path)
    assert source.options == {"text": "source", "target": "target"}
    path.write_text(
        "source,target\n" + "".join(f"some text number {i},{'ab'[i % 2]}\n" for i in range(20))
    )
    assert kind_name(path) == "text"


def test_parallel_files_with_splits(tmp_path: Path) -> None:
    folder = sides(tmp_path / "set", "train")
    sides(folder, "val", 1)
    sides(folder, "test2.test", 2)
    (folder / "README.md").write_text("read me")
    source = opened(folder)
    assert source.kind == "pairs"
    assert {name: len(part) for name, part in source.splits.items()} == {
        "train": 20,
        "val": 4,
        "test": 8,
    }
    assert source.options == {"text": "de", "target": "en"}
    assert any(
        "from de to en" in message and "--target de" in message for message in messages(source.notices)
    )
    assert all_pairs(source)["train/2"] == rows()[2][::-1]
    turned = opened(folder, target="de")
    assert all_pairs(turned)["train/2"] == rows()[2]
    assert {notice.code for notice in turned.notices} == {"leak"}  # the splits hold the same rows
    assert "known: de, en" in _refused(folder, target="fr").hint
    alone = opened(folder / "test2.test.en", test_fraction=0)
    assert alone.given == frozenset()
    assert sum(map(len, alone.splits.values())) == 8


def test_two_files_of_one_stem(tmp_path: Path) -> None:
    folder = sides(tmp_path / "set", "corpus", names=("src", "tgt"))
    for path in (folder, folder / "corpus", folder / "corpus.src"):
        source = opened(path)
        assert source.options == {"text": "src", "target": "tgt"}
        assert all_pairs(source)["3"] == rows()[3]
    assert opened(folder / "corpus.tgt").options == {"text": "tgt", "target": "src"}


def test_files_of_unequal_length_are_refused(tmp_path: Path) -> None:
    folder = sides(tmp_path / "set", "corpus")
    with (folder / "corpus.en").open("a") as file:
        file.write("one more\n")
    said = _refused(folder).message
    assert "has 20 lines" in said
    assert "has 21" in said


def test_folders_of_other_files_are_no_pairs(tmp_path: Path) -> None:
    for name in ("a.py", "a.sh", "train.txt", "train.csv"):
        (tmp_path / name).write_text("x\n")
    assert kind_name(tmp_path) != "pairs"
    (tmp_path / "x.foo").write_bytes(b"\0\1")
    (tmp_path / "x.bar").write_bytes(b"\0\1")
    assert kind_name(tmp_path) != "pairs"


def test_lines_with_a_tab_between_two_texts(tmp_path: Path) -> None:
    path = tmp_path / "deu.txt"
    path.write_text(
        "".join(f"{a}\t{b}\tby someone\n" for a, b in rows()) + "alone\t\n", encoding="utf-8"
    )
    source = opened(path)
    assert source.kind == "pairs"
    assert all_pairs(source) == {str(i): pair for i, pair in enumerate(rows())}
    assert any("20 lines have more than one tab" in message for message in messages(source.notices))
    assert any("1 of 21 pairs with an empty side" in message for message in messages(source.notices))
    path.write_text("".join(f"{'ab'[i % 2]}\tsome text number {i}\n" for i in range(20)))
    assert kind_name(path) == "text"
    path.write_text("".join(f"{i / 7}\tsome text number {i}\n" for i in range(20)))
    assert kind_name(path) == "text"


def test_no_two_columns_of_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b,c\n" + "".join(f"{i},{i},some text number {i}\n" for i in range(20)))
    assert "two columns that look like text" in _refused(path, kind="pairs").message
    assert "'c'" in (_refused(path, kind="pairs", text="c", target="cc").hint)


def test_each_side_has_a_vocabulary_of_the_training_pairs(tmp_path: Path) -> None:
    folder = sides(tmp_path / "set", "train")
    sides(folder, "val", 1)
    (folder / "test.en").write_text("unheard\n")
    (folder / "test.de").write_text("ungehört\n")
    task, spec, notes = fitted(opened(folder, target="de"))
    assert "house" in spec.source.vocabulary
    assert "house" not in spec.target.vocabulary
    assert "haus" in spec.target.vocabulary
    assert not {"unheard", "ungehört"} & {*spec.source.vocabulary, *spec.target.vocabulary}
    assert (spec.source.column, spec.target.column) == ("en", "de")
    assert len([note for note in notes if "vocabulary of" in note]) == 2
    assert [note for note in notes if "lower case" in note]
    assert TaskSpec.model_validate_json(task.model_dump_json()) == task


def test_targets_are_the_prefix_shifted_by_one(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "x.tsv"))
    task, spec, _ = fitted(source)
    part = source.splits["train"]
    reader = KINDS.get("pairs").reader(part, task, ReadOptions())
    where = np.array([5, 0, 2, 5])
    (tokens, lengths, prefix), kept = reader.read(where)
    targets = reader.targets(where)
    assert kept.tolist() == where.tolist()
    assert {array.dtype for array in (tokens, lengths, prefix, targets)} == {np.dtype(np.int64)}
    assert tokens.shape == (4, int(lengths.max()))
    assert prefix.shape == targets.shape
    assert reader.lengths is not None
    assert reader.lengths[where].tolist() == lengths.tolist() == (tokens != PAD).sum(axis=1).tolist()
    for row, following, index in zip(prefix, targets, where, strict=True):
        size = int((row != PAD).sum())
        assert row[0] == START
        assert following[size - 1] == END
        assert row[1:size].tolist() == following[: size - 1].tolist()
        assert not row[size:].any()
        assert not following[size:].any()
        assert decode(following, spec.target) == part.items.values[index][1].lower()  # type: ignore[attr-defined]


def test_no_prefix_is_longer_than_the_spec_says(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "x.tsv"))
    for limit in (None, 1, 3):
        task, spec, _ = fitted(source, max_length=limit)
        reader = KINDS.get("pairs").reader(source.splits["train"], task, ReadOptions())
        (tokens, _, prefix), _ = reader.read(np.arange(len(reader)))
        assert prefix.shape[1] == spec.target.max_length == (limit or 6) + 1
        assert tokens.shape[1] == spec.source.max_length
        assert isinstance(reader, PairsReader)
        assert bool(reader.notices) == (limit is not None)


def test_the_prefix_of_predict_is_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _, _ = fitted(opened(table(tmp_path / "x.tsv")))
    plain = tmp_path / "new.txt"
    plain.write_text("one red house\n\nfour\n")
    paired = tmp_path / "old.txt"
    paired.write_text("one red house\tein rotes Haus\n")
    one_column = tmp_path / "new.csv"
    one_column.write_text("english\ntwo dogs\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"three\n")))
    found = inputs([str(plain), str(paired), str(one_column), "-", "how many?", ""], task)
    assert found.ids[:5] == (f"{plain}:0", f"{plain}:2", f"{paired}:0", f"{one_column}:0", "stdin:0")
    assert [text for text, _ in found.items.values] == [  # type: ignore[attr-defined]
        *("one red house", "four", "one red house", "two dogs", "three", "how many?", "")
    ]
    reader = KINDS.get("pairs").reader(found, task, ReadOptions())
    (tokens, lengths, prefix), _ = reader.read(np.arange(7))
    assert prefix.tolist() == [[START]] * 7
    assert (tokens[6, 0], lengths[6]) == (UNKNOWN, 1)


def test_other_pairs_for_a_model(tmp_path: Path) -> None:
    task, _, _ = fitted(opened(table(tmp_path / "x.tsv")))
    other = open_other(DataConfig(data=str(table(tmp_path / "y.tsv"))), task)
    assert len(other.splits["all"]) == 20


def _refused(path: Path, **values: Any) -> Any:
    with pytest.raises(DlcliError) as info:
        opened(path, **values)
    return info.value


def test_a_table_without_header_is_read_again_by_the_columns_of_training(tmp_path: Path) -> None:
    lines = [f"one two three {i}\teins zwei drei {i}" for i in range(30)]
    (tmp_path / "p.tsv").write_text("\n".join(lines) + "\n")
    source = open_source(DataConfig(data=str(tmp_path / "p.tsv")), seed=0)
    options = source.options
    assert (options["text"], options["target"]) == ("column_1", "column_2")
    again = open_source(DataConfig(data=str(tmp_path / "p.tsv"), **options), seed=0)
    assert again.kind == "pairs"
    assert again.fingerprint == source.fingerprint
