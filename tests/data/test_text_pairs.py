"""Two texts for one prediction: which columns they are, and how they are encoded together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_bert

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource, Samples
from dlcli.data.kinds import KINDS, ModelNeeds, ReadOptions, find_kind
from dlcli.data.notices import messages
from dlcli.data.prepare import random_inputs, trim
from dlcli.data.sources import open_source
from dlcli.data.text.text_pairs import TextPairs, divide, join, truncated_lengths
from dlcli.data.text.tokens import encode_all, fit_text
from dlcli.datacheck.base import CheckResult
from dlcli.datacheck.text import check_damage, texts_of
from dlcli.errors import DlcliError, UsageError
from dlcli.task import END, TaskSpec, TextInput
from dlcli.zoo.snapshots import read_snapshot

PREMISE, OTHERS = "a man sits on a bench", ("a man rests", "nobody is there", "it rains all day")
LABELS = ("entailment", "contradiction", "neutral")


def rows(count: int = 30) -> list[tuple[str, str, str]]:
    """A premise that repeats, and hypotheses."""
    return [(f"{PREMISE} {i // 3}", f"{OTHERS[i % 3]} {i}", LABELS[i % 3]) for i in range(count)]


def table(path: Path, first: str = "premise", second: str = "hypothesis") -> Path:
    lines = [json.dumps({first: a, second: b, "label": label}) for a, b, label in rows()]
    path.write_text("\n".join(lines) + "\n")
    return path


def opened(path: Path, **values: object) -> DataSource:
    return open_source(DataConfig.model_validate({"data": str(path), **values}), seed=0)


@pytest.mark.parametrize(
    ("first", "second"),
    [("premise", "hypothesis"), ("sentence1", "sentence2"), ("Text_A", "Text_B"), ("q1", "q2")],
)
def test_two_columns_of_usual_names_are_pairs(tmp_path: Path, first: str, second: str) -> None:
    path = table(tmp_path / "d.jsonl", first, second)
    found = find_kind(path, DataConfig())
    assert found is not None
    assert found.name == "text"
    source = opened(path)
    assert source.options["text"] == f"{first},{second}"
    assert source.class_names == tuple(sorted(LABELS))
    items = source.splits["train"].items
    assert isinstance(items, TextPairs)
    assert {divide(text) for text in items.values} <= {(a, b) for a, b, _ in rows()}
    assert any("are pairs of texts" in message for message in messages(source.notices))
    alone = opened(path, text=second)
    assert not isinstance(alone.splits["train"].items, TextPairs)


def test_any_two_columns_are_pairs_where_they_are_named(tmp_path: Path) -> None:
    path = table(tmp_path / "d.jsonl", "question", "passage")
    assert not isinstance(opened(path).splits["train"].items, TextPairs)
    source = opened(path, text="question, passage")
    assert isinstance(source.splits["train"].items, TextPairs)
    assert source.options["text"] == "question,passage"
    assert not any("reads one" in message for message in messages(source.notices))


@pytest.mark.parametrize("text", ["premise,", "premise,hypothesis,label", "premise,premise"])
def test_other_numbers_of_columns_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"names \d columns"):
        opened(table(tmp_path / "d.jsonl"), text=text)


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match="hypotheses"):
        opened(table(tmp_path / "d.jsonl"), text="premise,hypotheses")


def test_a_comma_in_the_name_of_a_column_makes_no_pair(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    lines = [json.dumps({"text, long": f"{a} {b}", "label": label}) for a, b, label in rows()]
    path.write_text("\n".join(lines) + "\n")
    source = opened(path, text="text, long")
    assert not isinstance(source.splits["train"].items, TextPairs)


def test_a_tab_inside_a_text_divides_nothing() -> None:
    assert divide(join("a\tb", "c\td")) == ("a b", "c d")
    with pytest.raises(DlcliError, match="is one text"):
        divide("a b")


@pytest.mark.parametrize(("first", "second"), [(0, 9), (9, 0), (3, 3), (4, 9), (9, 4), (8, 9), (9, 8)])
@pytest.mark.parametrize("room", [0, 1, 5, 6, 12, 20])
def test_the_longer_text_is_truncated_first(first: int, second: int, room: int) -> None:
    one, other = truncated_lengths(first, second, room)
    assert one + other == min(room, first + second)
    assert one <= first
    assert other <= second
    # What is truncated stays as long as the other text, but for an odd token.
    if one < first:
        assert one >= other - 1
    if other < second:
        assert other >= one - 1


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_words_have_a_separator_between_the_texts(tokenizer: str) -> None:
    texts = [join(a, b) for a, b, _ in rows()]
    config = DataConfig.model_validate({"tokenizer": tokenizer, "max_length": 8})
    spec, notices = fit_text(texts, config, pair=True)
    assert any("30 of 30" in notice.message for notice in notices)
    encoded = encode_all([*texts, "\t", "only\t"], spec)
    assert (encoded.truncated, encoded.empty, encoded.types) == (30, 1, None)
    assert all(len(ids) <= 8 and ids.tolist().count(END) == 1 for ids in encoded.ids)
    with pytest.raises(UsageError, match="no room for two texts"):
        fit_text(texts, config.model_copy(update={"max_length": 2}), pair=True)


@pytest.mark.parametrize("family", tiny_bert.FAMILIES)
def test_pairs_are_encoded_as_the_tokenizers_library_does(family: str, tmp_path: Path) -> None:
    weights = read_snapshot(tiny_bert.write_snapshot(tmp_path, family)).text
    pairs = [("who is the king", "when was the citys year"), ("", "who"), ("the " * 9, "who"), ("", "")]
    pairs += [("who", "the " * 9), ("the " * 9, "is " * 8), ("the " * 8, "is " * 9)]
    texts = [join(*pair) for pair in pairs]
    library = tiny_bert.tokenizer(family)
    library.no_padding()
    for length in (5, 6, 11, 12):
        config = DataConfig.model_validate({"max_length": length})
        spec, _ = fit_text(texts, config, pair=True, pretrained=weights)
        library.enable_truncation(length)
        expected = [library.encode(first, second) for first, second in pairs]
        encoded = encode_all(texts, spec)
        assert [ids.tolist() for ids in encoded.ids] == [one.ids for one in expected]
        # RoBERTa's embedding has one row of types, DistilBERT none.
        assert spec.token_types is (family == "bert")
        if encoded.types is not None:
            assert [types.tolist() for types in encoded.types] == [one.type_ids for one in expected]


def test_the_reader_s_tensors_are_those_of_the_signature(tmp_path: Path) -> None:
    weights = read_snapshot(tiny_bert.write_snapshot(tmp_path / "w")).text
    source = opened(table(tmp_path / "d.jsonl"))
    kind = KINDS.get("text")
    task, _ = kind.fit(source, TrainConfig(), ModelNeeds("bert", text=weights))
    assert isinstance(task.input, TextInput)
    assert task.input.column == "premise,hypothesis"
    assert [tensor.name for tensor in task.input.signature] == ["tokens", "lengths", "types"]
    train = source.splits["train"]
    reader = kind.reader(train, task, ReadOptions())
    (tokens, lengths, types), _ = reader.read(np.arange(len(train)))
    assert tokens.shape == types.shape
    for row, length in zip(types, lengths, strict=True):
        assert not row[0]
        assert row[length - 1] == 1
        assert not row[length:].any()
    noise = random_inputs(task, 5)
    assert [array.dtype for array in noise] == [np.int64] * 3
    short = (noise[0], np.minimum(noise[1], 2), noise[2])
    assert [array.shape for array in trim(short, task)] == [(5, 2), (5,), (5, 2)]
    assert TaskSpec.model_validate_json(task.model_dump_json()) == task


def test_one_text_is_no_input_of_a_model_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = opened(table(tmp_path / "d.jsonl"))
    kind = KINDS.get("text")
    task, _ = kind.fit(source, TrainConfig(), ModelNeeds("cnn"))
    assert kind.inputs(["a man\tnobody"], task).ids == ("a man nobody",)
    Path("lines.txt").write_text("a man\tnobody\na man\n\na\tb\tc\nnobody\tis here\n")
    lines = kind.inputs(["lines.txt"], task)
    reader = kind.reader(lines, task, ReadOptions())
    assert reader.bad.keys() == {"lines.txt:1", "lines.txt:3"}
    assert "'a man' is one text" in reader.bad["lines.txt:1"]
    assert "'a', 'b', 'c' are 3 texts" in reader.bad["lines.txt:3"]
    inputs, readable = reader.read(np.arange(len(lines)))
    assert readable.tolist() == [0, 3]
    alone = kind.reader(kind.inputs(["nobody\tis here"], task), task, ReadOptions())
    assert inputs[0][1][inputs[0][1] > 0].tolist() == alone.read(np.arange(1))[0][0][0].tolist()
    with pytest.raises(DlcliError, match="takes pairs"):
        kind.reader(lines, task, ReadOptions(on_bad_sample="fail"))
    samples = kind.inputs(["d.jsonl"], task)
    assert len(samples) == len(rows())
    assert samples.items.values[0] == join(*rows()[0][:2])  # type: ignore[attr-defined]
    Path("other.jsonl").write_text('{"premise": "a man"}\n')
    with pytest.raises(DlcliError, match="hypothesis"):
        kind.inputs(["other.jsonl"], task)


def test_pairs_without_one_of_their_texts_are_counted_by_column(tmp_path: Path) -> None:
    path = table(tmp_path / "d.jsonl")
    cells = [("a", None, "neutral"), (None, "b", "neutral"), ("", "c", "neutral"), (None, "", "neutral")]
    with path.open("a") as file:
        for first, second, label in cells:
            row = {"premise": first, "hypothesis": second, "label": label}
            file.write(json.dumps(row) + "\n")
    source = opened(path)
    kind = KINDS.get("text")
    task, _ = kind.fit(source, TrainConfig(), ModelNeeds("cnn"))
    assert isinstance(task.input, TextInput)
    trained = [text for part in source.splits.values() for text in part.items.values]  # type: ignore[attr-defined]
    assert encode_all(trained, task.input).lacking == (2, 1)
    found = CheckResult()
    check_damage(source, {name: texts_of(part) for name, part in source.splits.items()}, found)
    assert sum(len(finding.examples) for finding in found.findings) == 4
    said = messages(kind.reader(kind.inputs([str(path)], task), task, ReadOptions()).notices)
    assert said[0].startswith("1 of 34 ")  # both are empty
    assert said[1].startswith("34 pairs: 2 without 'premise', 1 without 'hypothesis'")


def test_words_left_out_at_both_sides_of_the_tab_leave_a_pair(tmp_path: Path) -> None:
    source = opened(table(tmp_path / "d.jsonl"))
    kind = KINDS.get("text")
    task, _ = kind.fit(source, TrainConfig(), ModelNeeds("cnn"))
    pair = TextPairs((join("a " * 301, "b " * 300),))  # so many words are left out several at a time
    samples = Samples(("0",), np.zeros(0, dtype=np.int64), pair)
    inputs, _ = kind.reader(samples, task, ReadOptions()).read(np.arange(1))
    assert kind.occlude is not None
    occlusion = kind.occlude(samples.items, inputs, task)
    assert sum(len(rows) for _, rows in occlusion.batches) == len(occlusion.parts)
