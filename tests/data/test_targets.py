from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from dlcli.data.tables.targets import InferredTarget, encode, infer_target
from dlcli.errors import DlcliError, UsageError


def one(*cells: object, name: str = "y") -> dict[str, pl.Series]:
    return {name: pl.Series(name, list(cells), strict=False)}


def test_words_are_classes_in_natural_order():
    target = infer_target(one("b10", "b2", "a", "b2", None), None)
    assert target == InferredTarget("classification", ("a", "b2", "b10"), ("y",), ())


def test_booleans_are_two_classes():
    assert infer_target(one(True, False), None).class_names == ("false", "true")


def test_integers_of_few_values_are_classes_with_a_notice():
    target = infer_target(one(*[10, 2, 3] * 4), None)
    assert target.task == "classification"
    assert target.class_names == ("2", "3", "10")
    assert "--task regression" in target.notices[0].message
    assert "3 different integers" in target.notices[0].message


def test_two_numbers_are_two_classes_whatever_they_are():
    assert infer_target(one(0.5, -1.5, 0.5), None).class_names == ("-1.5", "0.5")


def test_floats_that_are_whole_are_written_without_a_point():
    assert infer_target(one(*[1.0, 2.0, 3.0, None] * 3), None).class_names == ("1", "2", "3")


def test_few_fractions_are_regression_with_a_notice():
    target = infer_target(one(*[0.5, 1.0, 1.5] * 4), None)
    assert target.task == "regression"
    assert "--task classification" in target.notices[0].message


def test_many_numbers_are_a_number():
    target = infer_target(one(*[i * 1.5 for i in range(200)]), None)
    assert target == InferredTarget("regression", (), ("y",), ())


def test_few_rows_of_different_whole_numbers_are_a_number():
    assert infer_target(one(3, 7, 9, 12), None).task == "regression"


def test_cells_of_several_labels():
    target = infer_target(one("cat|dog", "dog; bird", "cat", "cat|"), None)
    assert target.task == "multilabel"
    assert target.class_names == ("bird", "cat", "dog")
    assert "--task classification" in target.notices[0].message
    targets, rows = encode(one("cat|dog", None, " bird "), target, where="t.csv")
    assert targets.dtype == np.uint8
    assert targets.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert rows.tolist() == [True, False, True]


def test_a_separator_in_few_cells_is_part_of_a_class():
    assert infer_target(one("a|b", "a", "b", "a"), None).task == "classification"


def test_several_columns_of_zero_and_one_are_labels():
    columns = {"a": pl.Series([0, 1, 1]), "b": pl.Series([True, False, None])}
    target = infer_target(columns, None)
    assert (target.task, target.class_names) == ("multilabel", ("a", "b"))
    targets, rows = encode(columns, target, where="t.csv")
    assert targets.tolist() == [[0, 1], [1, 0]]
    assert rows.tolist() == [True, True, False]
    with pytest.raises(DlcliError, match="a label is 0 or 1, not 2"):
        encode({"a": pl.Series([2]), "b": pl.Series([0])}, target, where="t.csv")


def test_several_columns_of_numbers_are_several_numbers():
    columns = {"a": pl.Series([0.5, 1.0, 3.0, 4.0]), "b": pl.Series([2.0, float("inf"), 1.0, None])}
    target = infer_target(columns, None)
    assert (target.task, target.target_names) == ("regression", ("a", "b"))
    targets, rows = encode(columns, target, where="t.csv")
    assert targets.dtype == np.float64
    assert targets.tolist() == [[0.5, 2], [3, 1]]
    assert rows.tolist() == [True, False, True, False]


def test_classes_are_encoded_in_the_order_of_the_names():
    target = infer_target(one("b", "a"), None)
    targets, rows = encode(one("a", "b", None, "a"), target, where="t.csv")
    assert targets.dtype == np.int64
    assert targets.tolist() == [0, 1, 0]
    assert rows.tolist() == [True, True, False, True]


def test_an_unknown_class_is_named_with_the_nearest():
    target = infer_target(one("cat", "dog"), None)
    with pytest.raises(
        DlcliError, match=r"test\.csv: 2 rows have a class that is not in train: 'cats'"
    ) as e:
        encode(one("cat", "cats", "cats"), target, where="test.csv")
    assert "'cat'" in e.value.hint


def test_a_requested_task_overrides_the_inferred_one():
    assert infer_target(one(1, 2, 3, 4), "classification").class_names == ("1", "2", "3", "4")
    assert infer_target(one(*[1, 2] * 9), "regression").task == "regression"
    assert infer_target(one("a", "b", "a|b"), "multilabel").class_names == ("a", "b")
    assert infer_target(one("a", "b", "a|b"), "classification").class_names == ("a", "a|b", "b")


@pytest.mark.parametrize(
    ("columns", "asked", "error", "says"),
    [
        (one("a", "a", None), None, DlcliError, "has one value, 'a'"),
        (one(3, 3, 3), None, DlcliError, "one value, '3'"),
        (one(3.5, 3.5), "regression", DlcliError, "one value, 3.5"),
        (one(None, None), None, DlcliError, "empty in every row"),
        (one(*[f"name {i}" for i in range(30)]), None, DlcliError, "30 distinct values in 30 rows"),
        (one(*"abcab"), "regression", DlcliError, "5 cells of 'y' are not numbers: 'a'"),
        (one(*"ab"), "forecast", UsageError, "'forecast' does not apply"),
        ({**one(1, 2), **one(1, 2, name="z")}, "classification", UsageError, "one target, not 2"),
        ({**one(1, 2), **one("a", "b", name="z")}, None, DlcliError, "'z' has 'a'"),
    ],
)
def test_targets_that_cannot_be_learned(columns, asked, error, says):
    with pytest.raises(error, match=says):
        infer_target(columns, asked)


def test_one_class_is_enough_for_a_model_that_exists():
    assert infer_target(one("a", "a"), "classification", min_values=1).class_names == ("a",)
    assert infer_target(one(2.5), "regression", min_values=1).task == "regression"
