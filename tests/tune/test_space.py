"""Search spaces: what is read, what is refused, and that a space survives its text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcli.errors import UsageError
from dlcli.tune.space import Choices, Range, combination, grid_size, make_space, parse_search, texts_of


def test_entries_are_divided_at_commas_before_a_setting() -> None:
    text = "optim.lr=1e-4..1e-2:log, optim.optimizer=adam|sgd,model.args.widths=[16,32]|[8, 8]"
    assert parse_search([text, "fit.batch_size=16..64:16"]) == {
        "optim.lr": "1e-4..1e-2:log",
        "optim.optimizer": "adam|sgd",
        "model.args.widths": "[16,32]|[8, 8]",
        "fit.batch_size": "16..64:16",
    }


@pytest.mark.parametrize(
    ("text", "default", "domain"),
    [
        ("1e-4..1e-2:log", 1e-3, Range(1e-4, 1e-2, log=True)),
        ("0.1x..10x:log", 2e-3, Range(2e-4, 2e-2, log=True)),
        ("0.5x..2x", 16, Range(8, 32, whole=True)),
        ("16..64:16", 32, Range(16, 64, step=16, whole=True)),
        ("0..1", 0.5, Range(0, 1)),  # the setting is no whole number
        ("1..4", None, Range(1, 4, whole=True)),
        ("adam|sgd", "adam", Choices(("adam", "sgd"))),
        ("1e-3|1e-2", 1e-3, Choices(("1e-3", "1e-2"))),
    ],
)
def test_domains(text: str, default: Any, domain: Range | Choices) -> None:
    space = make_space({"key": text}, {"key": default})
    assert space == {"key": domain}
    assert make_space(texts_of(space), {"key": default}) == space


@pytest.mark.parametrize(
    ("text", "default", "words"),
    [
        ("1..1", 1, "the range is empty"),
        ("3..1", 1, "the range is empty"),
        ("0..1:log", 0.5, "begins above 0"),
        ("0..1:2", 0.5, "larger than the range"),
        ("0..1:x", 0.5, "neither log nor a step"),
        ("1..8:0.5", 4, "so is its step"),
        ("0.1x..10x", "auto", "is relative to key, which is 'auto'"),
        ("1..2..3", 1, "is not a range"),
        ("adam", "adam", "one value is no search"),
        ("adam|adam", "adam", "there twice"),
        ("adam|", "adam", "is empty"),
    ],
)
def test_refused_domains(text: str, default: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_space({"key": text}, {"key": default})


@pytest.mark.parametrize("text", ["optim.lr", "=1..2", "optim.lr=", "a=1|2,a=3|4"])
def test_refused_entries(text: str) -> None:
    with pytest.raises(UsageError):
        parse_search([text])


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e3), st.booleans())
def test_a_range_survives_its_text(low: float, factor: float, log: bool) -> None:
    space = {"key": Range(low, low * factor, log=log)}
    assert make_space(texts_of(space), {"key": low}) == space


def test_values_and_parameters_are_each_others_inverse() -> None:
    step = Range(0.1, 0.7, step=0.2)
    assert step.grid() == pytest.approx([0.1, 0.3, 0.5, 0.7])
    assert step.param(0.3) == pytest.approx(0.3)
    assert step.param(0.4) is None
    assert step.param(0.9) is None
    widths = Choices(("[16, 32]", "[8]"))
    assert widths.param((16, 32)) == "[16, 32]"
    assert widths.value("[8]") == [8]
    assert widths.param((1,)) is None
    assert Range(1, 8, whole=True).param(True) is None


def test_a_grid_has_every_combination_once() -> None:
    space = make_space({"a": "1..3", "b": "x|y"}, {"a": 1, "b": "x"})
    rows = [tuple(row.values()) for row in (combination(space, i) for i in range(6))]
    assert len(set(rows)) == len(rows) == grid_size(space) == 6
    assert make_space({"a": "1..2"}, {"a": 0.5})["a"].grid() is None
