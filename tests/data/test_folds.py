"""Folds: they divide the samples as scikit-learn's splitters do, whatever the order of the listing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold, StratifiedKFold, TimeSeriesSplit

from dlcli.config import DataConfig
from dlcli.data.base import DataSource, Listed, Samples
from dlcli.data.folds import expanding_window, fold_of_samples, with_fold
from dlcli.data.sources import open_source
from dlcli.data.splits import apply_splits, draw, hold_out, write_splits
from dlcli.errors import DlcliError, UsageError

NAMES = tuple("abcdef")


def listed(counts: list[int], *, numbers: bool = False) -> Samples:
    ids = tuple(f"{c}/{i}" for c, n in enumerate(counts) for i in range(n))
    targets = np.repeat(np.arange(len(counts)), counts)
    return Samples(ids, targets.astype(np.float64)[:, None] if numbers else targets, Listed(ids))


def source(splits: dict[str, Samples]) -> DataSource:
    return DataSource(
        "x", "/x", "text", "classification", splits, frozenset(splits) - {"all"}, "f", NAMES
    )


@pytest.mark.parametrize("numbers", [False, True])
@given(
    counts=st.lists(st.integers(5, 40), min_size=2, max_size=6),
    folds=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_folds_are_those_of_scikit_learn_on_the_drawn_order(
    numbers: bool, counts: list[int], folds: int, seed: int
) -> None:
    samples = listed(counts, numbers=numbers)
    own = dict(
        zip(samples.ids, fold_of_samples(samples, folds, seed=seed, class_names=NAMES), strict=True)
    )
    order = sorted(range(len(samples)), key=lambda i: draw(seed, samples.ids[i]))
    splitter = KFold(folds) if numbers else StratifiedKFold(folds)
    for fold, (_, held) in enumerate(splitter.split(order, samples.targets[order])):
        assert {samples.ids[order[i]] for i in held} == {id_ for id_, f in own.items() if f == fold}
    reversed_ = samples.take(np.arange(len(samples))[::-1].copy())
    again = fold_of_samples(reversed_, folds, seed=seed, class_names=NAMES)
    assert dict(zip(reversed_.ids, again, strict=True)) == own


def test_each_sample_is_held_out_once_and_the_given_test_split_never() -> None:
    parts = {"train": listed([9, 12]), "val": replace(listed([2, 2]), ids=tuple("wxyz"))}
    test = replace(listed([1, 1]), ids=("t0", "t1"))
    data = source({**parts, "test": test})
    held: list[str] = []
    for fold in (1, 2, 3):
        divided = with_fold(data, 3, fold, seed=0, val_fraction=0.1)
        every = [id_ for part in divided.splits.values() for id_ in part.ids]
        assert sorted(every) == sorted((*parts["train"].ids, *parts["val"].ids))
        assert divided.left_out == test.ids
        held += divided.splits["test"].ids
    assert sorted(held) == sorted((*parts["train"].ids, *parts["val"].ids))


@pytest.mark.parametrize("numbers", [False, True])
def test_what_is_in_no_fold_is_the_test_split_of_a_run_without_folds(numbers: bool) -> None:
    samples = listed([30, 44], numbers=numbers)
    fractions = {"val": 0.1, "test": 0.2}
    test = hold_out(samples, fractions, seed=3)["test"]
    held: list[str] = []
    for fold in (1, 2, 3):
        data = source({"all": samples})
        divided = with_fold(data, 3, fold, seed=3, val_fraction=0.1, test_fraction=0.2)
        assert divided.left_out == test.ids
        held += divided.splits["test"].ids
    assert sorted((*held, *test.ids)) == sorted(samples.ids)


def test_groups_and_copies_stay_together() -> None:
    samples = listed([30, 30])
    groups = tuple(str(i % 12) for i in range(60))
    folds = fold_of_samples(replace(samples, groups=groups), 4, seed=1, class_names=NAMES)
    for name in set(groups):
        assert len({f for f, group in zip(folds, groups, strict=True) if group == name}) == 1
    texts = tuple(f"text {i % 20}" for i in range(60))
    folds = fold_of_samples(replace(samples, items=Listed(texts)), 4, seed=1, class_names=NAMES)
    for text in set(texts):
        assert len({f for f, other in zip(folds, texts, strict=True) if other == text}) == 1


@given(rows=st.integers(12, 500), folds=st.integers(2, 6))
def test_folds_in_time_are_the_expanding_windows_of_scikit_learn(rows: int, folds: int) -> None:
    for fold, (train, test) in enumerate(TimeSeriesSplit(folds).split(np.empty(rows)), 1):
        end_of_train, end_of_val, end_of_test = expanding_window(rows, folds, fold, 0.1)
        assert 0 < end_of_train < end_of_val == len(train) == test[0]
        assert end_of_test == test[-1] + 1


def test_rows_with_times_are_divided_as_time_series_split_does() -> None:
    """Over distinct times, in whatever order the rows are; rows of one time stay together."""
    rng = np.random.default_rng(0)
    clock = rng.permutation(np.repeat(np.arange(30.0), 2))
    samples = replace(listed([60], numbers=True), clock=clock)

    def times(part: Samples) -> set[float]:
        assert part.clock is not None
        return set(part.clock.tolist())

    for fold, (train, test) in enumerate(TimeSeriesSplit(4).split(np.empty(30)), 1):
        splits = with_fold(source({"all": samples}), 4, fold, seed=0, val_fraction=0.1).splits
        assert times(splits["test"]) == set(test.tolist())
        assert times(splits["train"]) | times(splits["val"]) == set(train.tolist())
        assert max(times(splits["train"])) < min(times(splits["val"]))
    whole = hold_out(samples, {"val": 0.1, "test": 0.2}, seed=0)
    ends = [(min(times(part)), max(times(part))) for part in whole.values()]
    assert ends == [(0, 20), (21, 23), (24, 29)]
    assert sum(map(len, whole.values())) == 60


def test_a_class_that_comes_after_train_alone_is_an_error() -> None:
    samples = replace(listed([20, 20]), clock=np.arange(40.0))
    with pytest.raises(DlcliError, match="after the training split in time alone"):
        with_fold(source({"all": samples}), 3, 2, seed=0, val_fraction=0.1)
    with pytest.raises(DlcliError, match="2 different times are too few"):
        hold_out(replace(samples, clock=np.arange(40.0) // 20), {"val": 0.1, "test": 0.1}, seed=0)


def test_the_record_of_a_fold_is_read_again_with_what_it_leaves_out(tmp_path: Path) -> None:
    whole = source({"train": listed([9, 12]), "test": replace(listed([1, 1]), ids=("t0", "t1"))})
    divided = with_fold(whole, 3, 2, seed=0, val_fraction=0.2)
    write_splits(tmp_path / "splits.json", divided)
    again, messages = apply_splits(tmp_path / "splits.json", whole)
    assert messages == []
    assert {name: part.ids for name, part in again.splits.items()} == {
        name: part.ids for name, part in divided.splits.items()
    }
    assert again.left_out == ("t0", "t1")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (listed([9, 3, 9]), "fewer samples than the 5 folds, copies counted once, in class b"),
        (listed([2, 2], numbers=True), "4 samples are too few for 5 folds"),
        (replace(listed([9, 9]), groups=("g", "h") * 9), "2 groups are too few for 5 folds"),
        (replace(listed([9, 9]), groups=("g",) * 18), "1 group is too few for 5 folds"),
    ],
)
def test_too_few_for_the_folds(samples: Samples, message: str) -> None:
    with pytest.raises(DlcliError, match=message):
        fold_of_samples(samples, 5, seed=0, class_names=NAMES)


@pytest.mark.parametrize("settings", [{"folds": 3}, {"fold": 1}, {"folds": 3, "fold": 4}])
def test_a_fold_that_is_none(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="is no fold"):
        open_source(DataConfig(data="digits", **settings), seed=0)
