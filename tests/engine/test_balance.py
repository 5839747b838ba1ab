"""Balancing: weights that sum alike, orders that are functions, and what the user is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcli.engine.balance import (
    LARGEST_WEIGHT,
    BalancedOrder,
    balance_plan,
    class_weights,
    label_weights,
)
from dlcli.errors import UsageError
from dlcli.task import NumberColumn, TabularInput, TargetNumber, TaskSpec

TABLE = TabularInput(numbers=(NumberColumn(name="x"),))
CLASSES = TaskSpec(input=TABLE, class_names=("cat", "dog", "emu"))
LABELS = TaskSpec(kind="multilabel", input=TABLE, class_names=("cat", "dog", "emu"))
NUMBERS = TaskSpec(kind="regression", input=TABLE, targets=(TargetNumber(name="y"),))
TARGETS = np.repeat(np.array([0, 1, 2]), [30, 6, 3])
SEVERAL = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]], dtype=np.uint8)


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=9).filter(any))
def test_class_weights_have_a_mean_of_one_and_do_not_favour_the_large(sizes: list[int]) -> None:
    counts = np.array(sizes)
    weights, cut = class_weights(counts)
    assert (weights * counts).sum() == pytest.approx(counts.sum(), rel=1e-5)
    order = np.argsort(counts[counts > 0])
    assert (np.diff(weights[counts > 0][order]) <= 1e-6).all()
    assert (weights[counts == 0] == 0).all()
    present = counts > 0
    if not cut:
        sums = (weights * counts)[present]
        assert sums == pytest.approx(np.full(len(sums), sums.mean()), rel=1e-5)


def test_a_tiny_class_is_cut_to_the_largest_weight() -> None:
    weights, cut = class_weights(np.array([99_999, 1]))
    assert cut == 1
    assert weights[1] / weights[0] == pytest.approx(LARGEST_WEIGHT / (100_000 / (2 * 99_999)), rel=1e-4)


def test_label_weights_make_yes_and_no_count_alike() -> None:
    weights, cut = label_weights(np.array([10, 90, 0, 100, 1]), 100)
    assert weights[:2] == pytest.approx([9, 1 / 9])
    assert weights[2] == 1  # never positive: never used
    assert weights[3:] == pytest.approx([1 / LARGEST_WEIGHT, LARGEST_WEIGHT])
    assert cut == 2


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_a_balanced_epoch_is_even_whole_and_a_function(sizes: list[int], seed: int, epoch: int) -> None:
    targets = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = BalancedOrder(targets)(seed, epoch)
    assert order.dtype == np.int64
    assert len(order) == len(targets)
    drawn = np.bincount(targets[order], minlength=len(sizes))
    present = np.array(sizes) > 0
    assert drawn[present].max() - drawn[present].min() <= 1
    times = np.bincount(order, minlength=len(targets))
    for label in np.flatnonzero(present):  # none is shown twice more than its neighbour
        own = times[targets == label]
        assert own.max() - own.min() <= 1
    assert np.array_equal(order, BalancedOrder(targets.copy())(seed, epoch))


def test_epochs_and_seeds_draw_differently_and_see_all_of_a_large_class() -> None:
    order = BalancedOrder(TARGETS)
    assert not np.array_equal(order(0, 0), order(0, 1))
    assert not np.array_equal(order(0, 0), order(1, 0))
    seen = np.unique(np.concatenate([order(0, epoch) for epoch in range(20)]))
    assert len(seen) == len(TARGETS)
    labels = TARGETS[order(0, 0)]
    assert len(np.unique(labels[:13])) == 3  # shuffled, not class by class


def test_weights_come_with_the_counts_in_words() -> None:
    plan = balance_plan("weights", CLASSES, TARGETS)
    assert plan.counts is not None
    assert plan.counts.tolist() == [30, 6, 3]
    assert plan.weights is not None
    assert plan.weights.numpy() == pytest.approx([39 / 90, 39 / 18, 39 / 9])
    assert plan.order is None
    assert "30 (cat) to 3 (emu)" in plan.sentence
    assert "10.0 to 1" in plan.sentence
    assert "0.433 to 4.33" in plan.sentence


def test_a_sampler_draws_and_a_focal_loss_needs_nothing() -> None:
    plan = balance_plan("sampler", CLASSES, TARGETS)
    assert plan.weights is None
    assert plan.order is not None
    assert np.bincount(TARGETS[plan.order(0, 0)]).tolist() == [13, 13, 13]
    assert "about 13 of each class" in plan.sentence
    focal = balance_plan("focal", CLASSES, TARGETS)
    assert (focal.kind, focal.weights, focal.order) == ("focal", None, None)
    assert "gamma 2" in focal.sentence


def test_labels_get_a_weight_for_their_positives() -> None:
    plan = balance_plan("weights", LABELS, SEVERAL)
    assert plan.counts is not None
    assert plan.counts.tolist() == [3, 2, 0]
    assert plan.weights is not None
    assert plan.weights.numpy() == pytest.approx([1 / 3, 1, 1])
    assert "1 without any" in plan.sentence
    assert balance_plan("focal", LABELS, SEVERAL).kind == "focal"


def test_without_balance_only_very_unequal_classes_are_worth_a_sentence() -> None:
    assert "--balance" in balance_plan("none", CLASSES, TARGETS).sentence
    assert balance_plan("none", CLASSES, np.arange(30) % 3).sentence == ""
    assert balance_plan("none", NUMBERS, np.zeros((4, 1))).counts is None
    assert balance_plan("none", LABELS, np.zeros((4, 3), dtype=np.uint8)).sentence == ""


def test_what_cannot_be_balanced_is_refused() -> None:
    for kind in ("weights", "sampler", "focal"):
        with pytest.raises(UsageError, match="regression task has none"):
            balance_plan(kind, NUMBERS, np.zeros((4, 1)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="several labels") as caught:
        balance_plan("sampler", LABELS, SEVERAL)
    assert "weights" in (caught.value.hint or "")


def test_no_class_at_all_has_samples() -> None:
    plan = balance_plan("weights", LABELS, np.zeros((4, 3), dtype=np.uint8))
    assert "without a sample" in plan.sentence
