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
    assert targets.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert rows.tolist() == [True, True, True]


def test_a_separator_in_few_cells_is_part_of_a_class():
    assert infer_target(one("a|b", "c", "d", "c"), None).task == "classification"


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


def test_labels_are_recognised_where_few_cells_hold_several():
    target = infer_target(one("red", "blue", "red|blue", None, "red", "blue"), None)
    assert (target.task, target.class_names) == ("multilabel", ("blue", "red"))
    said = [notice.message for notice in target.notices]
    assert "'red|blue'" in said[0]
    assert "--task classification" in said[0]
    assert "1 of 6 cells of 'y' are empty" in said[1]
    targets, rows = encode(one("red", None, "red|blue"), target, where="t.csv")
    assert targets.tolist() == [[0, 1], [0, 0], [1, 1]]
    assert rows.all()


def test_parts_that_are_no_cells_of_their_own_are_part_of_a_class():
    target = infer_target(one("salt;sea", "salt;lake", "sweet", "sweet", "brackish", "sweet"), None)
    assert target.task == "classification"
    assert "'salt;sea' is one class; --task multilabel" in target.notices[0].message


def test_commas_separate_labels_where_their_parts_are_cells_too():
    cells = one("red, blue", "red", "blue", "blue,red", "")
    target = infer_target(cells, None)
    assert (target.task, target.class_names) == ("multilabel", ("blue", "red"))
    assert target.options == {"label_separators": ","}
    assert infer_target(one("Doe, Jane", "Roe, Ann", "Doe, Jane"), None).task == "classification"
    # Other data is read with the separators of training, whatever its own cells show.
    other = infer_target(one("red,blue"), "multilabel", min_values=1, separators=",")
    assert other.class_names == ("blue", "red")


def test_separators_of_the_user():
    target = infer_target(one("a b", "a", "b c", "c"), None, separators=" ")
    assert (target.task, target.class_names) == ("multilabel", ("a", "b", "c"))


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("y", [["a", "b"], [], None, ["c"]]),
        pl.Series("y", ['["a", "b"]', "[]", None, '["c"]']),
        pl.Series("y", ["['a', 'b']", "[]", "", "['c']"]),
    ],
)
def test_cells_that_are_lists_are_labels(column):
    target = infer_target({"y": column}, None)
    assert (target.task, target.class_names) == ("multilabel", ("a", "b", "c"))
    targets, _ = encode({"y": column}, target, where="t.jsonl")
    assert targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_lists_of_numbers_and_lists_as_classes():
    column = {"y": pl.Series("y", [[0, 3], [3], [0, 3], [3]])}
    assert infer_target(column, None).class_names == ("0", "3")
    assert infer_target(column, "classification").class_names == ("0|3", "3")


def test_objects_are_no_labels():
    with pytest.raises(DlcliError, match="'y' holds objects") as e:
        infer_target({"y": pl.Series("y", [{"a": 1}, {"a": 0}])}, None)
    assert "list" in e.value.hint


def test_one_requested_column_of_zero_and_one_is_one_label():
    target = infer_target(one(0, 1, 1, name="toxic"), "multilabel")
    assert (target.class_names, target.options) == (("toxic",), {"label_separators": ""})
    assert encode(one(1, 0, name="toxic"), target, where="t")[0].tolist() == [[1], [0]]
    other = infer_target(one(0, 0, name="toxic"), "multilabel", min_values=1, separators="")
    assert encode(one(0, 0, name="toxic"), other, where="t")[0].tolist() == [[0], [0]]


def test_columns_of_true_and_false_are_labels():
    columns = {"a": pl.Series(["True", "False", None]), "b": pl.Series(["no", "yes", "no"])}
    target = infer_target(columns, None)
    assert (target.task, target.class_names) == ("multilabel", ("a", "b"))
    targets, rows = encode(columns, target, where="t.csv")
    assert targets.tolist() == [[1, 0], [0, 1]]
    assert rows.tolist() == [True, True, False]


def test_data_without_any_label_is_valid_for_a_trained_model():
    target = infer_target(one(None, None), "multilabel", min_values=1)
    assert target.class_names == ()
    assert encode(one(None, None), target, where="t.csv")[0].shape == (2, 0)


def test_classes_that_differ_in_case_alone_are_named():
    target = infer_target(one("Ham", " ham ", "ham", "spam", "very  good", "very good"), None)
    assert target.class_names == ("Ham", "ham", "spam", "very  good", "very good")
    (notice,) = target.notices
    assert "differ in case or spaces alone stay apart: 'Ham' and 'ham'" in notice.message


def test_two_unicode_forms_of_a_letter_are_one_class():
    target = infer_target(one("caf\u00e9", "cafe\u0301", "tea"), None)
    assert target.class_names == ("caf\u00e9", "tea")
    assert encode(one("cafe\u0301", "tea"), target, where="t")[0].tolist() == [0, 1]
