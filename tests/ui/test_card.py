"""The screen of an artifact's card, for every kind of input and every task."""

from __future__ import annotations

import pytest
from fake_tasks import TASKS

from dlcli.card import Card, DataRecord, ModelSpec
from dlcli.task import CategoryColumn, NumberColumn, SeriesInput, TabularInput, TargetNumber, TaskSpec
from dlcli.ui.card import print_card


@pytest.fixture(params=[80, 140])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return int(request.param)


def shown(task: TaskSpec, capsys: pytest.CaptureFixture[str], width: int) -> str:
    """The screen with every run of blanks as one."""
    card = Card(
        model=ModelSpec(name="m"),
        task=task,
        metrics={"val": {"mae": 51_234.4, "r2": 0.81}},
        data=DataRecord(data="/d/x.csv", options={"target": "price"}),
    )
    print_card(card, path="p", format="safetensors", size_bytes=2048, sha256="00", verified=True)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= width
    return " ".join(out.split())


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("images", ["task classification, 2 classes", "3 x 8 x 8 (channels, height, width), RGB",
                    "input float32 (batch, 3, 8, 8)", "logits float32 (batch, 2)",
                    "Classes 2 cat, dog"]),
        ("classification", ["words and punctuation marks, lowercase", "vocabulary 7 entries",
                            "max length 40 tokens", "column question", "tokens int64 (batch, length)"]),
        ("multilabel", ["task multilabel, 3 labels", "Labels 3 cat, [b]dog, sky"]),
        ("regression", ["task regression, 1 target", "columns 2 numbers, 1 category",
                        "row 4 features", "income mean 3.87, std 1.9 after sign(x) log(1 + |x|)",
                        "missing becomes 3.5, with an indicator", "rooms mean 2635.8, std 2181.6",
                        "ocean 2 values: INLAND, [red]BAY[/]", "price mean 200000, std 100000"]),
        ("forecast", ["task forecast, the next 3 steps of 2 targets", "length 96 steps", "channels 2",
                      "HUFL mean 7.4, std 5.6", "values float32 (batch, 96, 2)",
                      "numbers float32 (batch, 3, 2)"]),
        ("embedding", ["task embedding, 40 dimensions, trained on 2 classes",
                       "vectors float32 (batch, 40)"]),
        ("seq2seq", ["task seq2seq", "Source tokens", "Target tokens", "prefix int64"]),
    ],
)  # fmt: skip
def test_inputs_and_outputs_are_described(
    width: int, capsys: pytest.CaptureFixture[str], task: str, said: list[str]
) -> None:
    out = shown(TASKS[task], capsys, width)
    for sentence in [*said, "mae 51234", "read with target=price"]:
        assert sentence in out


def test_only_what_a_task_has_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(TASKS["regression"], capsys, 140)
    assert "Classes" not in out
    assert "Labels" not in out
    assert "Targets" not in shown(TASKS["images"], capsys, 140)
    wide = TabularInput(numbers=(NumberColumn(name="x"),))
    assert "Categories" not in shown(
        TaskSpec(kind="regression", input=wide, targets=(TargetNumber(name="y"),)), capsys, 140
    )


def test_series_of_varying_length_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    spec = SeriesInput(channels=("a",), mean=(0.0,), std=(1.0,), length=29, varies=True)
    out = shown(TaskSpec(input=spec, class_names=("x", "y")), capsys, 140)
    assert "up to 29 steps; a longer series is truncated" in out
    assert "lengths int64 (batch)" in out


def test_long_lists_are_counted(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    columns = tuple(NumberColumn(name=f"a column with a long name {i}\n") for i in range(100))
    words = CategoryColumn(name="w", values=tuple(f"word{i}" for i in range(1000)))
    targets = tuple(TargetNumber(name=f"t{i}") for i in range(50))
    spec = TabularInput(numbers=columns, categories=(words,))
    out = shown(TaskSpec(kind="regression", input=spec, targets=targets), capsys, width)
    assert "and 70 more" in out
    assert "and 20 more" in out
    assert "1,000 values: word0" in out
    assert "and 988 more" in out
    assert "word12," not in out
