"""Balancing: weights that sum alike, orders that are functions, and what the user is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcli.errors import UsageError
from dlcli.task import NumberColumn, TabularInput, TargetNumber, TaskSpec
from dlcli.training.class_balance import (
    GROUP_SIZE,
    MAX_WEIGHT,
    BalancedOrder,
    BalanceKind,
    GroupedOrder,
    balance_plan,
    class_weights,
    label_weights,
)

TABLE = TabularInput(numbers=(NumberColumn(name="x"),))
CLASSES = TaskSpec(input=TABLE, class_names=("cat", "dog", "emu"))
LABELS = TaskSpec(kind="multilabel", input=TABLE, class_names=("cat", "dog", "emu"))
NUMBERS = TaskSpec(kind="regression", input=TABLE, targets=(TargetNumber(name="y"),))
EMBED = TaskSpec(kind="embedding", input=TABLE, class_names=("cat", "dog", "emu"), embedding_size=2)
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
    assert weights[1] / weights[0] == pytest.approx(MAX_WEIGHT / (100_000 / (2 * 99_999)), rel=1e-4)


def test_label_weights_make_yes_and_no_count_alike() -> None:
    weights, cut = label_weights(np.array([10, 90, 0, 100, 1]), 100)
    assert weights[:2] == pytest.approx([9, 1 / 9])
    assert weights[2] == 1  # never positive: never used
    assert weights[3:] == pytest.approx([1 / MAX_WEIGHT, MAX_WEIGHT])
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
    assert focal.sentence.startswith("balance focal: classes from 30 (cat)")


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
            balance_plan(kind, NUMBERS, np.zeros((4, 1)))
    with pytest.raises(UsageError, match="several labels") as caught:
        balance_plan("sampler", LABELS, SEVERAL)
    assert "weights" in (caught.value.hint or "")


def test_no_class_at_all_has_samples() -> None:
    plan = balance_plan("weights", LABELS, np.zeros((4, 3), dtype=np.uint8))
    assert "without a sample" in plan.sentence


# Embeddings


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_an_epoch_of_groups_pairs_every_sample_once_with_one_of_its_class(
    sizes: list[int], seed: int, epoch: int
) -> None:
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = GroupedOrder(targets)(seed, epoch)
    assert sorted(order.tolist()) == list(range(len(targets)))
    assert np.array_equal(order, GroupedOrder(targets)(seed, epoch))
    classes = [-1, *targets[order].tolist(), -1]
    for place in range(1, len(classes) - 1):
        alone = classes[place] not in (classes[place - 1], classes[place + 1])
        assert not alone or sizes[classes[place]] == 1


def test_epochs_group_other_samples() -> None:
    targets = np.repeat(np.arange(5), 8)
    orders = [GroupedOrder(targets)(0, epoch) for epoch in (0, 1)]
    groups = [
        {frozenset(o[i : i + GROUP_SIZE].tolist()) for i in range(0, 40, GROUP_SIZE)} for o in orders
    ]
    assert groups[0] != groups[1]
    assert len(groups[0]) == 10
    assert all(len(set(targets[list(group)])) == 1 for group in groups[0] | groups[1])


@pytest.mark.parametrize("batch", [8, 12, 32, 60])
def test_batches_of_groups_hold_pairs_and_other_classes(batch: int) -> None:
    targets = np.repeat(np.arange(10), 23)
    order = GroupedOrder(targets)(0, 0)
    for start in range(0, len(order) - batch + 1, batch):
        counts = np.bincount(targets[order[start : start + batch]])
        assert (counts > 0).sum() > 1
        assert counts[counts > 1].sum() >= batch - 2  # a group may be cut at both ends


def test_groups_of_a_balanced_draw_hold_each_class_equally_often() -> None:
    plan = balance_plan("sampler", EMBED, TARGETS)
    assert plan.grouped
    assert plan.order is not None
    drawn = TARGETS[plan.order(0, 0)]
    assert np.bincount(drawn).tolist() == [13, 13, 13]
    assert (drawn[1:] == drawn[:-1]).mean() > 0.6


def test_embeddings_are_warned_of_their_groups_and_of_lone_samples() -> None:
    plan = balance_plan("none", EMBED, np.array([0, 0, 0, 1, 1, 2]))
    assert plan.sentence == (
        "batches: groups of up to 4 samples of a class; 1 class has one training sample, which has "
        "no positive pair"
    )
    assert plan.grouped
    assert not balance_plan("none", CLASSES, TARGETS).grouped


@pytest.mark.parametrize("kind", ["weights", "focal"])
def test_a_loss_of_single_samples_is_not_for_embeddings(kind: BalanceKind) -> None:
    with pytest.raises(UsageError, match=f"--balance {kind} weighs single samples"):
        balance_plan(kind, EMBED, TARGETS)
