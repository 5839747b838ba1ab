"""Folds of cross-validation: scikit-learn's, over samples in an order that the seed and the ids decide.

N is the number of samples, K of folds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dlcli.data.base import DataSource, Indices, Samples
from dlcli.data.copies import copy_units
from dlcli.data.splits import divide_in_time, draw, hold_out, one_class, take_from
from dlcli.errors import DlcliError, UsageError
from dlcli.wording import listed, plural


def with_fold(
    source: DataSource,
    folds: int,
    fold: int,
    *,
    seed: int,
    val_fraction: float,
    test_fraction: float = 0.0,
) -> DataSource:
    """``source`` with the samples of ``fold`` (1 to ``folds``) held out as its test split.

    Of the others a part is held out as val, so that what is held out chooses no epoch. The folds divide
    all samples but those of a test split, which is in no split then: the given one, or without one
    ``test_fraction`` of the samples, the same that a run without folds holds out. Samples with times are
    divided as `expanding_window` does. Raises: DlcliError where a class, or the groups, are fewer than
    the folds.
    """
    least = 2 if source.task == "embedding" else 1
    parts = {name: part for name, part in source.splits.items() if name != "test"}
    total = sum(map(len, parts.values()))
    pool = take_from(list(parts.values()), np.arange(total, dtype=np.int64))
    given = source.splits.get("test")
    left_out = () if given is None else given.ids
    if given is None and test_fraction:
        fractions = {"val": val_fraction, "test": test_fraction}
        test = hold_out(pool, fractions, seed=seed, least=least).get("test")
        left_out = () if test is None else test.ids
        others = set(left_out)
        pool = pool.take(np.flatnonzero([id_ not in others for id_ in pool.ids]))
    if pool.clock is not None:
        times = np.unique(pool.clock)
        train, val, end = expanding_window(len(times), folds, fold, val_fraction)
        before = pool.take(np.flatnonzero(np.searchsorted(times, pool.clock) < end))
        sizes, names = (train, val - train, end - val), ("train", "val", "test")
        splits = divide_in_time(before, sizes, names)
        return replace(source, splits=splits, given=frozenset(), left_out=left_out)
    held = fold_of_samples(pool, folds, seed=seed, class_names=source.class_names) == fold - 1
    rest = pool.take(np.flatnonzero(~held))
    splits = hold_out(rest, {"val": val_fraction}, seed=seed, least=least)
    splits["test"] = pool.take(np.flatnonzero(held))
    return replace(source, splits=splits, given=frozenset(), left_out=left_out)


def fold_of_samples(
    samples: Samples, folds: int, *, seed: int, class_names: tuple[str, ...] = ()
) -> Indices:
    """The fold of each sample, (N,), from 0.

    With groups `StratifiedGroupKFold` or, where samples have no single class, `GroupKFold`; else
    `StratifiedKFold` or `KFold` over samples and their exact copies, which stay together. Raises:
    DlcliError where a class, or the groups, are fewer than the folds.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    units = samples.groups or tuple(copy_units(samples))
    drawn = sorted(set(units), key=lambda unit: (draw(seed, unit), unit))
    if len(drawn) < folds:
        what = plural(len(drawn), "group" if samples.groups else "sample")
        raise DlcliError(
            f"{what} {'is' if len(drawn) == 1 else 'are'} too few for {folds} folds",
            hint=f"give --folds {len(drawn)} or fewer" if len(drawn) > 1 else "leave --folds out",
        )
    position = {unit: i for i, unit in enumerate(drawn)}
    codes = np.array([position[unit] for unit in units], dtype=np.int64)
    is_class = one_class(samples)
    if samples.groups:
        order = np.argsort(codes, kind="stable")
        labels = samples.targets[order] if is_class else np.zeros(len(order), np.int64)
        by_group = StratifiedGroupKFold(folds) if is_class else GroupKFold(folds)
        fold_of_unit = np.zeros(len(drawn), dtype=np.int64)
        for fold, (_, held) in enumerate(by_group.split(order, labels, codes[order])):
            fold_of_unit[codes[order[held]]] = fold
        return fold_of_unit[codes]
    first = np.zeros(len(drawn), dtype=np.int64)
    for index, (id_, unit) in enumerate(zip(samples.ids, units, strict=True)):
        if id_ == unit:
            first[position[unit]] = index
    labels = samples.targets[first] if is_class else np.zeros(len(drawn), np.int64)
    if is_class:
        _check_classes(labels, folds, class_names)
    splitter = StratifiedKFold(folds) if is_class else KFold(folds)
    fold_of_unit = np.zeros(len(drawn), dtype=np.int64)
    for fold, (_, held) in enumerate(splitter.split(first, labels)):
        fold_of_unit[held] = fold
    return fold_of_unit[codes]


def expanding_window(rows: int, folds: int, fold: int, val_fraction: float) -> tuple[int, int, int]:
    """The ends of train, val and test of a fold in time, in rows.

    As scikit-learn's `TimeSeriesSplit`: test is the ``fold``-th (from 1) of the last ``folds`` of
    ``folds + 1`` parts, and all before it are train, of which the end is val. Raises: UsageError for too
    few rows.
    """
    from sklearn.model_selection import TimeSeriesSplit

    if rows <= folds:
        raise UsageError(f"{rows} rows are too few for {folds} folds in time", hint="give fewer --folds")
    train, test = list(TimeSeriesSplit(folds).split(np.empty(rows)))[fold - 1]
    val = max(1, round(len(train) * val_fraction))
    return len(train) - val, len(train), len(train) + len(test)


def _check_classes(labels: Indices, folds: int, class_names: tuple[str, ...]) -> None:
    """Raises: DlcliError for classes of fewer samples than folds."""
    counts = np.bincount(labels, minlength=len(class_names))
    small = [class_names[i] for i in np.flatnonzero((counts < folds) & (counts > 0)).tolist()]
    if small:
        least = int(counts[counts > 0].min())
        way = f"give --folds {least}, or " if least > 1 else ""
        raise DlcliError(
            f"fewer samples than the {folds} folds, copies counted once, in class {listed(small, 5)}",
            hint=f"{way}add samples of it, or leave the class out",
        )
