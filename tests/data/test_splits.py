"""Held-out splits: what must be true of them for any data, and that they are found again by id."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcli.data.base import DataSource, Listed, Samples, Stacked
from dlcli.data.copies import copy_units
from dlcli.data.splits import apply_splits, hold_out, write_splits
from dlcli.data.tables.rows import TableRows
from dlcli.errors import DlcliError

COUNTS = st.lists(st.integers(1, 60), min_size=2, max_size=6)
SHARES = st.tuples(st.floats(0.01, 0.6), st.floats(0, 0.39))


def listed(counts: list[int]) -> Samples:
    ids = tuple(f"class{c}/{i}.jpg" for c, n in enumerate(counts) for i in range(n))
    targets = np.repeat(np.arange(len(counts)), counts)
    return Samples(ids, targets, Listed(tuple(Path("/data") / id_ for id_ in ids)))


@given(COUNTS, SHARES, st.integers(0, 2**31 - 1))
def test_what_is_held_out_in_pairs_is_never_alone(
    counts: list[int], shares: tuple[float, float], seed: int
) -> None:
    samples = listed([6, *counts])
    fractions = dict(zip(("val", "test"), shares, strict=True))
    splits = hold_out(samples, fractions, seed=seed, least=2)
    assert sorted(id_ for part in splits.values() for id_ in part.ids) == sorted(samples.ids)
    for name, part in splits.items():
        held = np.bincount(part.targets, minlength=len(counts) + 1)
        if name == "train":
            assert (held >= 1).all()
        elif sum(shares) < 0.8:
            assert held[np.array([6, *counts]) < 6].sum() == 0
            assert (held[np.array([6, *counts]) >= 12] >= 2).all()


@given(COUNTS.filter(lambda counts: max(counts) > 1), SHARES, st.integers(0, 2**31 - 1))
def test_splits_are_disjoint_complete_and_stratified(
    counts: list[int], shares: tuple[float, float], seed: int
) -> None:
    samples = listed(counts)
    fractions = dict(zip(("val", "test"), shares, strict=True))
    splits = hold_out(samples, fractions, seed=seed)
    assert sorted(id_ for part in splits.values() for id_ in part.ids) == sorted(samples.ids)
    assert len(splits["val"]) > 0
    for target, count in enumerate(counts):
        held = {name: int((part.targets == target).sum()) for name, part in splits.items()}
        assert held["train"] >= 1
        if count >= 3:
            assert all(held.get(name, 0) >= 1 for name, share in fractions.items() if share > 0)
        for name, share in fractions.items():
            exact = count * share
            assert held.get(name, 0) <= max(1, round(exact))
            if sum(shares) * count <= count - 2:
                assert held.get(name, 0) >= round(exact)
    for part in splits.values():
        for id_, target, path in zip(part.ids, part.targets, values(part), strict=True):
            assert id_.startswith(f"class{target}/")
            assert path == Path("/data") / id_


@given(COUNTS.filter(lambda counts: max(counts) > 3), st.integers(0, 1000), st.randoms())
def test_a_split_depends_on_seed_and_ids_not_on_the_listing(
    counts: list[int], seed: int, random: object
) -> None:
    samples = listed(counts)
    order = np.random.default_rng(seed).permutation(len(samples))
    one = hold_out(samples, {"val": 0.2}, seed=seed)
    other = hold_out(samples.take(order), {"val": 0.2}, seed=seed)
    assert {k: set(v.ids) for k, v in one.items()} == {k: set(v.ids) for k, v in other.items()}


def test_another_seed_is_another_split() -> None:
    samples = listed([50, 50])
    found = [hold_out(samples, {"val": 0.2}, seed=seed)["val"].ids for seed in range(5)]
    assert len(set(found)) == 5


def test_one_sample_a_class_cannot_be_split() -> None:
    with pytest.raises(DlcliError, match="2 samples, one a class, are too few"):
        hold_out(listed([1, 1]), {"val": 0.1}, seed=0)


def test_two_samples_a_class_give_one_to_validation() -> None:
    splits = hold_out(listed([2, 2]), {"val": 0.1, "test": 0.1}, seed=0)
    assert {name: len(part) for name, part in splits.items()} == {"train": 3, "val": 1}


def values(samples: Samples) -> Any:
    assert isinstance(samples.items, Listed | Stacked)
    return samples.items.values


def source(counts: list[int], *, pixels: bool = False, seed: int = 0, mark: str = "a") -> DataSource:
    samples = listed(counts)
    if pixels:
        values = np.arange(len(samples), dtype=np.uint8)[:, None, None, None]
        samples = Samples(samples.ids, samples.targets, Stacked(values))
    return DataSource(
        name="data",
        origin="/data",
        kind="image",
        task="classification",
        class_names=tuple(f"class{c}" for c in range(len(counts))),
        splits=hold_out(samples, {"val": 0.2, "test": 0.2}, seed=seed),
        given=frozenset(),
        native=(3, 0, 0),
        fingerprint=mark,
    )


def ids(of: DataSource) -> dict[str, tuple[str, ...]]:
    return {name: part.ids for name, part in of.splits.items()}


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_written_splits_come_back_whatever_the_new_seed(pixels: bool, seed: int, tmp_path: Path) -> None:
    old = source([9, 8], pixels=pixels)
    write_splits(tmp_path / "splits.json", old)
    back, said = apply_splits(tmp_path / "splits.json", source([9, 8], pixels=pixels, seed=seed))
    assert said == []
    assert ids(back) == ids(old)
    for name, part in back.splits.items():
        assert np.array_equal(part.targets, old.splits[name].targets)
        assert np.array_equal(values(part), values(old.splits[name]))


def test_lost_and_new_samples_are_reported(tmp_path: Path) -> None:
    old = source([9, 8])
    write_splits(tmp_path / "splits.json", old)
    back, said = apply_splits(tmp_path / "splits.json", source([10, 7], mark="b"))
    assert len(said) == 2
    assert said[0] == "1 sample of the run's splits no longer in /data: class1/7.jpg"
    assert said[1] == "1 sample new in /data, in none of the run's splits: class0/9.jpg"
    kept = {name: tuple(i for i in part if i != "class1/7.jpg") for name, part in ids(old).items()}
    assert ids(back) == kept


def test_changed_contents_are_reported(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits.json", source([9, 8]))
    _, said = apply_splits(tmp_path / "splits.json", source([9, 8], mark="b"))
    assert said == ["/data has changed since the run: same samples, other contents"]


def test_a_new_class_does_not_shift_the_others(tmp_path: Path) -> None:
    old = source([9, 8])
    write_splits(tmp_path / "splits.json", old)
    new = source([9, 8])
    names = ("aaa", *new.class_names)
    splits = {k: replace(v, targets=v.targets + 1) for k, v in new.splits.items()}
    extra = Samples(("aaa/0.jpg",), np.array([0]), Listed((Path("/data/aaa/0.jpg"),)))
    splits["test"] = Samples(
        (*splits["test"].ids, *extra.ids),
        np.concatenate([splits["test"].targets, extra.targets]),
        Listed((*values(splits["test"]), *values(extra))),
    )
    back, said = apply_splits(tmp_path / "splits.json", replace(new, class_names=names, splits=splits))
    assert back.class_names == old.class_names
    assert ids(back) == ids(old)
    for name, part in back.splits.items():
        assert np.array_equal(part.targets, old.splits[name].targets)
    assert "1 sample new in /data" in said[0]


def test_moved_data_is_an_error_and_so_is_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    write_splits(path, source([9, 8]))
    other = source([9, 8])
    gone = {k: replace(v, ids=tuple(f"x{i}" for i in v.ids)) for k, v in other.splits.items()}
    with pytest.raises(DlcliError, match=r"none of the \d+ samples of the train split are in /data"):
        apply_splits(path, replace(other, splits=gone))
    record = json.loads(path.read_text())
    splits = record["splits"]
    unlike = (
        {},
        {"train": [1]},
        {"val": splits["val"], "test": splits["val"]},  # nothing to train with
        {**splits, "val": "0"},
        {**splits, "extra": splits["val"]},
    )
    for broken in ({}, [], *({**record, "splits": other_splits} for other_splits in unlike)):
        path.write_text(json.dumps(broken))
        with pytest.raises(DlcliError, match=r"splits\.json"):
            apply_splits(path, other)
    path.write_text(json.dumps({**record, "schema": 9}))
    with pytest.raises(DlcliError, match="schema 9"):
        apply_splits(path, other)


def texts(counts: dict[str, int], labels: list[int] | None = None) -> Samples:
    """Texts, each so many times."""
    values = tuple(text for text, count in counts.items() for _ in range(count))
    targets = np.array(labels if labels is not None else [0] * len(values), dtype=np.int64)
    return Samples(tuple(f"{i:04}" for i in range(len(values))), targets, Listed(values))


@given(st.lists(st.integers(1, 4), min_size=10, max_size=60), st.integers(0, 1000))
def test_copies_stay_together(counts: list[int], seed: int) -> None:
    samples = texts({f"text {i}": count for i, count in enumerate(counts)})
    splits = hold_out(samples, {"val": 0.2, "test": 0.2}, seed=seed)
    where = [{values(part)[i] for i in range(len(part))} for part in splits.values()]
    assert not where[0] & where[1] | where[0] & where[2] | where[1] & where[2]
    assert sorted(id_ for part in splits.values() for id_ in part.ids) == sorted(samples.ids)
    assert all(len(part) for part in splits.values())


def test_copies_of_two_classes_stay_together_too() -> None:
    samples = texts({f"text {i}": 2 for i in range(40)}, labels=[0, 1] * 40)
    for seed in range(5):
        splits = hold_out(samples, {"val": 0.25}, seed=seed)
        assert not set(values(splits["train"])) & set(values(splits["val"]))
        assert len(splits["val"]) == 20


def test_a_text_that_is_most_of_the_data_stays_in_train() -> None:
    samples = texts({"ok": 60, **{f"text {i}": 1 for i in range(40)}})
    for seed in range(20):
        splits = hold_out(samples, {"val": 0.1, "test": 0.1}, seed=seed)
        assert "ok" not in values(splits["val"]) + values(splits["test"])
        assert len(splits["val"]) == 4


def test_a_class_of_copies_alone_is_divided_nevertheless() -> None:
    assert len(hold_out(texts({"same": 20}), {"val": 0.2}, seed=0)["val"]) == 4


def test_copies_of_photos_are_found_by_their_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(30):
        content = b"same head" * 2000 + rng.bytes(10 + i % 3) + b"same tail" * 2000
        for copy in range(1 + i % 2):
            paths.append(tmp_path / f"{i}-{copy}.png")
            paths[-1].write_bytes(content)
    samples = Samples(
        tuple(p.name for p in paths), np.zeros(len(paths), dtype=np.int64), Listed(tuple(paths))
    )
    assert copy_units(samples) == [f"{p.name.split('-')[0]}-0.png" for p in paths]
    (tmp_path / "1-1.png").unlink()
    (tmp_path / "3-1.png").write_bytes(b"")
    units = dict(zip(samples.ids, copy_units(samples), strict=True))
    assert (units["1-1.png"], units["3-1.png"]) == ("1-1.png", "3-1.png")


def test_rows_equal_by_chance_are_units_of_their_own() -> None:
    rows = TableRows(pl.DataFrame({"a": [i % 3 for i in range(30)]}))
    few = Samples(tuple(map(str, range(30))), np.zeros(30, dtype=np.int64), rows)
    assert copy_units(few) == list(few.ids)
    rows = TableRows(pl.DataFrame({"a": [i % 28 for i in range(30)]}))
    assert copy_units(replace(few, items=rows))[-2:] == ["0", "1"]
