"""Labelled texts in the shapes people have them, and in the shapes they get wrong."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.kinds import KINDS, ModelNeeds, ReadOptions, find_kind
from dlcli.data.notices import messages
from dlcli.data.sources import open_other, open_source
from dlcli.data.text.inputs import looks_like_path
from dlcli.data.text.kind import inputs
from dlcli.errors import DlcliError
from dlcli.task import UNKNOWN, TaskSpec, TextInput

ANIMALS = ("the cat sat on the mat", "a cat likes warm milk", "my cat sleeps all day")
TOOLS = ("the hammer hits the nail", "a saw cuts the wood", "this drill is very loud")


def rows(times: int = 4) -> list[tuple[str, str]]:
    """Texts and labels, every text different."""
    pairs = [(text, "animal") for text in ANIMALS] + [(text, "tool") for text in TOOLS]
    return [(f"{text} {i}", label) for i in range(times) for text, label in pairs]


def table(path: Path, header: str = "text,label", lines: list[str] | None = None) -> Path:
    lines = [f"{text},{label}" for text, label in rows()] if lines is None else lines
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def plain(path: Path, times: int = 4) -> Path:
    path.write_text("".join(f"{label} {text}\n" for text, label in rows(times)), encoding="utf-8")
    return path


def opened(path: Path, **values: Any) -> DataSource:
    return open_source(DataConfig.model_validate({"data": str(path), **values}), seed=0)


def fitted(source: DataSource, **values: Any) -> tuple[TaskSpec, list[str]]:
    config = TrainConfig(data=DataConfig.model_validate(values))
    task, notices = KINDS.get(source.kind).fit(source, config, ModelNeeds("any"))
    return task, messages(notices)


def texts_of(source: DataSource) -> dict[str, tuple[str, str]]:
    """Id to text and class name, over all splits."""
    return {
        id_: (text, source.class_names[target])
        for part in source.splits.values()
        for id_, text, target in zip(part.ids, part.items.values, part.targets, strict=True)  # type: ignore[attr-defined]
    }


def refused(path: Path, **values: Any) -> DlcliError:
    with pytest.raises(DlcliError) as info:
        opened(path, **values)
    return info.value


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_the_same_table_in_every_format(tmp_path: Path, suffix: str) -> None:
    import polars as pl

    frame = pl.DataFrame({"text": [t for t, _ in rows()], "label": [label for _, label in rows()]})
    path = tmp_path / f"animals{suffix}"
    if suffix == ".parquet":
        frame.write_parquet(path)
    elif suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    source = opened(path)
    assert (source.kind, source.task, source.class_names) == (
        "text",
        "classification",
        ("animal", "tool"),
    )
    assert texts_of(source) == {str(i): row for i, row in enumerate(rows())}
    assert source.options == {"text": "text", "target": "label", "task": "classification"}
    assert source.given == frozenset()


def test_split_files_are_one_source_and_other_files_are_ignored(tmp_path: Path) -> None:
    table(tmp_path / "train.csv", "text,category")
    table(tmp_path / "test.csv", "text,category", [f"{ANIMALS[0]},animal"])
    (tmp_path / "categories.json").write_text('["animal", "tool"]')
    (tmp_path / "LICENSE").write_text("free")
    source = opened(tmp_path)
    assert source.kind == "text"
    assert source.given == {"train", "test"}
    assert source.splits["test"].ids == ("test/0",)
    assert source.splits["train"].ids[0] == "train/0"
    assert any("test.csv has no text of tool" in message for message in messages(source.notices))


@pytest.mark.parametrize("between", ["\t", " "])
def test_plain_lines_are_a_label_and_a_text(tmp_path: Path, between: str) -> None:
    for split, times in (("TRAIN", 4), ("test", 1)):
        lines = [f"{label}{between}{text}" for text, label in rows(times)]
        (tmp_path / f"X.{split}.all").write_text("\n".join([*lines, "", ""]), encoding="utf-8")
    source = opened(tmp_path)
    assert source.kind == "text"
    assert {name: len(part) for name, part in source.splits.items()} == {
        "train": 22,
        "val": 2,
        "test": 6,
    }
    assert texts_of(source)["test/0"] == rows()[0]
    assert opened(tmp_path / "X.TRAIN.all").given == {"train", "test"}
    assert opened(tmp_path / "X").fingerprint == source.fingerprint


def test_digits_as_names_are_classes_in_the_order_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("".join(f"{i % 12} some words of number {i}\n" for i in range(48)))
    assert opened(path).class_names == tuple(str(i) for i in range(12))
    path.write_text("".join(f"{i % 5 + 0.5}\tsome words of number {i}\n" for i in range(48)))
    assert opened(path).task == "regression"


@pytest.mark.parametrize(
    "content",
    [
        "It was a bright cold day in April.\nThe clocks were striking thirteen.\n"
        "Winston slipped through the doors.\nHis chin was nuzzled into his breast.\nHe went on.\n",
        "1.5 2.5 3.5\n1.5 2.6 3.5\n2.5 2.7 3.5\n2.5 2.8 3.1\n1.5 2 3\n",
        "cat\ndog\ncat\ndog\ncat\n",
        "a b\nb c\n",
        "",
    ],
)
def test_prose_numbers_and_words_are_no_labelled_lines(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.txt"
    path.write_text(content)
    assert find_kind(path, DataConfig()) is None


@pytest.mark.parametrize("splits", [("",), ("train", "dev", "test")])
def test_folders_of_text_files(tmp_path: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        for i, (text, label) in enumerate(rows(2)):
            file = tmp_path / "set" / split / label / "deep" / f"{i}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
    source = opened(tmp_path / "set")
    assert (source.kind, source.class_names) == ("text", ("animal", "tool"))
    assert sum(len(part) for part in source.splits.values()) == 12 * len(splits)
    first = f"{splits[0]}/animal/deep/0.txt".lstrip("/")
    assert texts_of(source)[first] == rows()[0]
    assert source.given == {"train": {"train", "val", "test"}, "": set()}[splits[0]]


def test_text_that_is_not_utf8_is_read_and_counted(tmp_path: Path) -> None:
    lines = [f"{label} {text} café" for text, label in rows()]
    path = tmp_path / "x.txt"
    path.write_bytes("\n".join(lines).encode("iso-8859-1"))
    source = opened(path)
    assert all(text.endswith("café") for text, _ in texts_of(source).values())
    assert any("not UTF-8" in message and "24 lines" in message for message in messages(source.notices))
    file = table(tmp_path / "x.csv")
    file.write_bytes(file.read_bytes().replace(b"milk", "lait où".encode("cp1252")))
    assert any("not UTF-8" in message for message in messages(opened(file).notices))


def test_the_text_and_the_target_are_found_among_several_columns(tmp_path: Path) -> None:
    lines = [f"{i},{label},{text},{i * 7 % 5}" for i, (text, label) in enumerate(rows())]
    path = table(tmp_path / "x.csv", "id,class,review,votes", lines)
    source = opened(path)
    assert source.options == {"text": "review", "target": "class", "task": "classification"}
    assert any("not used: 'id', 'votes'" in message for message in messages(source.notices))
    assert opened(path, target="votes").class_names == tuple("01234")
    assert opened(path, target="votes", task="regression").target_names == ("votes",)
    wide = table(tmp_path / "y.csv", "id,a,name,b", lines)
    kind = find_kind(wide, DataConfig())
    assert kind is None or kind.name != "text"
    assert opened(wide, kind="text", target="a").options["text"] == "name"


def test_missing_columns_name_the_nearest(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv")
    assert "'label'" in (refused(path, target="lable").hint or "")
    assert "'text'" in (refused(path, text="txt").hint or "")
    (tmp_path / "d").mkdir()
    table(tmp_path / "d" / "train.csv")
    table(tmp_path / "d" / "test.csv", "text,labels")
    assert "test.csv has no column 'label'" in refused(tmp_path / "d").message
    alone = table(tmp_path / "alone.csv", "text", [text for text, _ in rows()])
    assert "no target column besides 'text'" in refused(alone, kind="text").message


def test_one_class_and_classes_that_train_lacks_are_refused(tmp_path: Path) -> None:
    one = table(tmp_path / "one.csv", lines=[f"{text} {i},cat" for i, text in enumerate(ANIMALS * 4)])
    assert "at least two" in refused(one).message
    (tmp_path / "d").mkdir()
    table(tmp_path / "d" / "train.csv")
    table(tmp_path / "d" / "test.csv", lines=["some words about planets,star"])
    assert "'star'" in refused(tmp_path / "d").message


def test_rows_without_a_target_are_left_out_and_empty_texts_kept(tmp_path: Path) -> None:
    lines = [*(f"{text},{label}" for text, label in rows()), "no label here at all,", ",animal"]
    source = opened(table(tmp_path / "x.csv", lines=lines))
    samples = texts_of(source)
    assert "24" not in samples
    assert samples["25"] == ("", "animal")
    assert any("1 text without a target" in message for message in messages(source.notices))
    task, _ = fitted(source)
    part = next(part for part in source.splits.values() if "25" in part.ids)
    reader = KINDS.get("text").reader(part, task, ReadOptions())
    (tokens, lengths), _ = reader.read(np.array([part.ids.index("25")]))
    assert any("texts are empty" in message for message in messages(reader.notices))
    assert (tokens.tolist(), lengths.tolist()) == ([[UNKNOWN]], [1])


def test_several_labels_and_numbers(tmp_path: Path) -> None:
    lines = [f"{text},{label}|all,{i / 7}" for i, (text, label) in enumerate(rows())]
    path = table(tmp_path / "x.csv", "text,labels,score", lines)
    many = opened(path)
    assert (many.task, many.class_names) == ("multilabel", ("all", "animal", "tool"))
    assert many.splits["train"].targets.shape[1:] == (3,)
    number = opened(path, target="score")
    task, _ = fitted(number)
    assert task.kind == "regression"
    assert task.targets[0].mean == pytest.approx(float(number.splits["train"].targets.mean()))


def test_splits_and_groups_by_column(tmp_path: Path) -> None:
    names = ("train", "train", "valid", "test")
    lines = [f"{t},{label},{names[i % 4]},{i // 2}" for i, (t, label) in enumerate(rows())]
    path = table(tmp_path / "x.csv", "text,label,split,user", lines)
    source = opened(path, split_column="split", drop=["user"])
    assert {name: len(part) for name, part in source.splits.items()} == {
        "train": 12,
        "val": 6,
        "test": 6,
    }
    assert source.splits["val"].ids[:2] == ("2", "6")
    grouped = opened(path, group_column="user", drop=["split"])
    users = [set(part.groups or ()) for part in grouped.splits.values()]
    assert sum(map(len, users)) == len(set().union(*users)) == 12


def test_a_table_without_a_header(tmp_path: Path) -> None:
    lines = [f"{label}\t{text}" for text, label in rows()]
    path = table(tmp_path / "x.tsv", lines[0], lines[1:])
    source = opened(path)
    assert texts_of(source) == {str(i): row for i, row in enumerate(rows())}
    task, _ = fitted(source)
    # Options samples by looking read the same again, also where nothing repeats.
    assert opened(path, **source.options).fingerprint == source.fingerprint
    assert inputs([str(path)], task_with_column(task, source.options)).items.values[0] == rows()[0][0]  # type: ignore[attr-defined]


def task_with_column(task: TaskSpec, options: Mapping[str, Any]) -> TaskSpec:
    assert isinstance(task.input, TextInput)
    return task.model_copy(update={"input": task.input.model_copy(update={"column": options["text"]})})


def test_the_encoder_is_fitted_on_train_alone_and_read_pads_to_the_longest(tmp_path: Path) -> None:
    table(tmp_path / "train.csv")
    table(tmp_path / "test.csv", lines=["unheard words about a cat,animal"])
    source = opened(tmp_path)
    task, notes = fitted(source)
    assert isinstance(task.input, TextInput)
    assert "cat" in task.input.vocabulary
    assert "unheard" not in task.input.vocabulary
    assert task.input.column == "text"
    assert any("vocabulary of" in note for note in notes)
    reader = KINDS.get("text").reader(source.splits["train"], task, ReadOptions())
    where = np.array([2, 0, 2])
    (tokens, lengths), kept = reader.read(where)
    assert reader.lengths is not None
    assert tokens.dtype == lengths.dtype == np.int64
    assert tokens.shape == (3, int(lengths.max()))
    assert kept.tolist() == where.tolist()
    assert lengths.tolist() == reader.lengths[where].tolist()
    assert all(
        (row[n:] == 0).all() and (row[:n] > 0).all() for row, n in zip(tokens, lengths, strict=True)
    )
    again = TaskSpec.model_validate_json(task.model_dump_json())
    same = KINDS.get("text").reader(source.splits["train"], again, ReadOptions())
    assert same.read(where)[0][0].tolist() == tokens.tolist()


def test_truncated_texts_are_counted(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "x.csv"))
    task, notes = fitted(source, max_length=3)
    assert any("are longer than 3 tokens" in note for note in notes)
    reader = KINDS.get("text").reader(source.splits["val"], task, ReadOptions())
    assert reader.lengths is not None
    assert set(reader.lengths.tolist()) == {3}


def test_other_data_may_have_one_class_and_must_have_known_ones(tmp_path: Path) -> None:
    task, _ = fitted(opened(table(tmp_path / "x.csv")))
    one = table(tmp_path / "one.csv", lines=["a wholly new hammer,tool"])
    other = open_other(DataConfig(data=str(one)), task)
    assert other.splits["all"].targets.tolist() == [task.class_names.index("tool")]
    strange = table(tmp_path / "strange.csv", lines=["a wholly new star,star"])
    with pytest.raises(DlcliError, match="star"):
        open_other(DataConfig(data=str(strange)), task)


class TestInputs:
    """What `predict` is given."""

    @pytest.fixture
    def task(self, tmp_path: Path) -> TaskSpec:
        return fitted(opened(table(tmp_path / "x.csv")))[0]

    def test_tables_need_no_target(self, tmp_path: Path, task: TaskSpec) -> None:
        path = table(tmp_path / "new.csv", "n,text", ["1,a cat", "2,", "3,a hammer"])
        samples = inputs([str(path)], task)
        assert samples.ids == (f"{path}:0", f"{path}:1", f"{path}:2")
        assert samples.items.values == ("a cat", "", "a hammer")  # type: ignore[attr-defined]
        path = table(tmp_path / "wrong.csv", "n,texts", ["1,a cat"])
        with pytest.raises(DlcliError, match="no column 'text'") as info:
            inputs([str(path)], task)
        assert "'texts'" in (info.value.hint or "")

    def test_lines_of_files_and_of_standard_input(
        self, tmp_path: Path, task: TaskSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "new.txt"
        path.write_text("a cat\n\na hammer\r\n")
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("été\n\nlast".encode())))
        samples = inputs([str(path), "-"], task)
        assert samples.ids == (f"{path}:0", f"{path}:2", "stdin:0", "stdin:2")
        assert [notice.message for notice in samples.notices] == [
            f"{path}: empty lines, which have no prediction: 1 of 3",
            "stdin: empty lines, which have no prediction: 1 of 3",
        ]
        assert samples.items.values == ("a cat", "a hammer", "été", "last")  # type: ignore[attr-defined]
        assert len(samples.targets) == 0

    def test_labels_of_a_training_file_are_no_text(self, tmp_path: Path, task: TaskSpec) -> None:
        samples = inputs([str(plain(tmp_path / "old.txt"))], task)
        assert samples.items.values == tuple(text for text, _ in rows())  # type: ignore[attr-defined]
        prose = tmp_path / "prose.txt"
        prose.write_text("tool use is common\nanimal friends\ntool\n")
        assert inputs([str(prose)], task).items.values[0] == "tool use is common"  # type: ignore[attr-defined]

    def test_a_folder_gives_a_text_a_file(self, tmp_path: Path, task: TaskSpec) -> None:
        for name in ("b/2.txt", "b/10.txt"):
            (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "f" / name).write_text("two\nlines\n")
        samples = inputs([str(tmp_path / "f")], task)
        assert samples.ids == (str(tmp_path / "f/b/2.txt"), str(tmp_path / "f/b/10.txt"))
        assert samples.items.values == ("two\nlines", "two\nlines")  # type: ignore[attr-defined]

    def test_an_argument_that_is_no_path_is_the_text(self, task: TaskSpec) -> None:
        long = "what is 3.5 / 2 in words? " * 20
        samples = inputs([long, "hello", "", "broken \udcff byte", "x" * 5000], task)
        assert samples.ids[1] == "hello"
        assert len(samples.ids[0]) <= 60
        assert samples.items.values[0] == long  # type: ignore[attr-defined]
        reader = KINDS.get("text").reader(samples, task, ReadOptions())
        assert reader.read(np.arange(5))[0][1].min() == 1

    @pytest.mark.parametrize("name", ["nothing.csv", "a/b", "~x", "*.txt"])
    def test_a_missing_file_is_no_text(self, task: TaskSpec, name: str) -> None:
        assert looks_like_path(name)
        with pytest.raises(DlcliError, match="does not exist"):
            inputs([name], task)

    def test_nothing_to_read_is_an_error(self, tmp_path: Path, task: TaskSpec) -> None:
        (tmp_path / "empty.txt").write_text("\n\n")
        with pytest.raises(DlcliError, match="has no text"):
            inputs([str(tmp_path / "empty.txt")], task)
        (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\0\0")
        with pytest.raises(DlcliError, match="zero bytes"):
            inputs([str(tmp_path / "photo.jpg")], task)


def fasttext(path: Path, sets: list[str]) -> Path:
    lines = [f"{labels} my bread number {i} came out" for i, labels in enumerate(sets)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_lines_with_several_labels_of_fasttext(tmp_path: Path) -> None:
    sets = ["__label__bread __label__burnt", "__label__cake", "__label__bread __label__dry"] * 10
    source = opened(fasttext(tmp_path / "train.txt", sets))
    assert (source.kind, source.task) == ("text", "multilabel")
    assert source.class_names == ("__label__bread", "__label__burnt", "__label__cake", "__label__dry")
    values = [text for part in source.splits.values() for text in part.items.values]  # type: ignore[attr-defined]
    assert not any("__label__" in text for text in values)
    total = sum(int(part.targets.sum()) for part in source.splits.values())
    assert total == 50
    task, _ = fitted(source)
    samples = inputs([str(fasttext(tmp_path / "new.txt", ["__label__cake __label__dry"]))], task)
    assert samples.items.values == ("my bread number 0 came out",)


def test_a_line_of_fasttext_without_a_label_has_no_target(tmp_path: Path) -> None:
    one = [*["__label__bread", "__label__cake"] * 10, ""]
    source = opened(fasttext(tmp_path / "train.txt", one))
    assert (source.task, source.class_names) == ("classification", ("__label__bread", "__label__cake"))
    assert sum(map(len, source.splits.values())) == 20
    several = [*["__label__bread __label__dry", "__label__cake"] * 10, ""]
    source = opened(fasttext(tmp_path / "more.txt", several))
    assert sum(map(len, source.splits.values())) == 21


def test_json_lists_of_labels(tmp_path: Path) -> None:
    import json

    path = tmp_path / "train.jsonl"
    sets = [["bread", "dry"], ["cake"], [], ["dry"]] * 8
    lines = [
        json.dumps({"text": f"my loaf number {i} is here", "labels": s}) for i, s in enumerate(sets)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    source = opened(path)
    assert (source.kind, source.task, source.class_names) == (
        "text",
        "multilabel",
        ("bread", "cake", "dry"),
    )
    assert sum(map(len, source.splits.values())) == len(sets)
    assert sum(int(part.targets.sum()) for part in source.splits.values()) == 32


@pytest.mark.parametrize("words", [("0", "1"), ("False", "True")])
def test_columns_of_zero_and_one_next_to_a_text_are_its_labels(
    tmp_path: Path, words: tuple[str, str]
) -> None:
    lines = [
        f'{i},"you wrote remark number {i} today",{words[i % 2]},{words[i % 3 == 0]},{words[i % 5 == 1]}'
        for i in range(40)
    ]
    path = table(tmp_path / "t.csv", "id,comment_text,toxic,insult,threat", lines)
    source = opened(path)
    assert (source.kind, source.task) == ("text", "multilabel")
    assert source.class_names == ("toxic", "insult", "threat")
    assert any("--target selects others" in message for message in messages(source.notices))
    alone = opened(path, target="insult")
    assert (alone.task, len(alone.class_names)) == ("classification", 2)


@pytest.mark.parametrize(
    ("signs", "script"),
    [
        ("很好干净热情隔音差旧异味安静", "Chinese"),
        ("とても良い部屋ですが古い匂い", "Japanese"),
        ("ดีมากสะอาดเงียบเก่าเหม็น", "Thai"),
    ],
)
def test_texts_without_spaces_are_texts_of_signs(tmp_path: Path, signs: str, script: str) -> None:
    lines = [f"{i % 2},{signs[i % 7 :]}{signs[: i % 5 + 3]}{signs[i % 11]}" for i in range(40)]
    source = opened(table(tmp_path / "t.csv", "label,review", lines))
    assert source.kind == "text"
    task, notices = fitted(source)
    assert isinstance(task.input, TextInput)
    assert 8 < task.input.vocab_size < 30
    (said,) = [message for message in notices if "without spaces" in message]
    assert script in said
    spaced = opened(table(tmp_path / "u.csv"))
    assert not any("without spaces" in message for message in fitted(spaced)[1])


def test_text_with_some_words_of_a_script_without_spaces(tmp_path: Path) -> None:
    lines = [f"{i % 2},the hotel {'很好' if i % 2 else '很差'} number {i}" for i in range(40)]
    task, notices = fitted(opened(table(tmp_path / "t.csv", "label,review", lines)))
    assert isinstance(task.input, TextInput)
    assert {"hotel", "好", "差"} <= set(task.input.vocabulary)
    assert any("Chinese" in message for message in notices)


def test_short_names_in_chinese_are_no_text(tmp_path: Path) -> None:
    names = "王李张刘陈杨黄赵吴周"
    lines = [f"{names[i % 10]}小{names[i // 10]},{i * 0.5},{i % 2}" for i in range(40)]
    path = table(tmp_path / "t.csv", "name,age,label", lines)
    assert find_kind(path, DataConfig(data=str(path))).name == "tabular"
