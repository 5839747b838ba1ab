"""Who is held out: a function of (seed, id), and the file that remembers it by id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import DataSource, Samples
from dlcli.errors import DlcliError
from dlcli.files import read_json, write_json

SPLITS_SCHEMA = 1


def hold_out(samples: Samples, fractions: Mapping[str, float], *, seed: int) -> dict[str, Samples]:
    """``samples`` divided into "train" and one split for each fraction above 0, class by class.

    Which sample goes where depends on the seed and its own id only, not on the order of the listing.
    Every class keeps a training sample; a class of three or more gives at least one to each other
    split. Raises: DlcliError when not even one sample can be spared.
    """
    wanted = {name: share for name, share in fractions.items() if share > 0}
    chosen: dict[str, list[int]] = {"train": [], **{name: [] for name in wanted}}
    order = np.array([_draw(seed, id_) for id_ in samples.ids], dtype=np.uint64)
    for target in np.unique(samples.targets):
        members = np.flatnonzero(samples.targets == target)
        members = members[np.argsort(order[members], kind="stable")]
        start = 0
        for name, count in _shares(len(members), wanted).items():
            chosen[name] += members[start : start + count].tolist()
            start += count
        chosen["train"] += members[start:].tolist()
    if "val" in wanted and not chosen["val"]:
        chosen["val"].append(_spare(samples, chosen))
    # In the order of the listing, so that a split reads its files as they lie on the disk.
    return {
        name: samples.take(np.array(sorted(indices), dtype=np.int64))
        for name, indices in chosen.items()
        if indices
    }


def write_splits(path: Path, source: DataSource) -> None:
    """Write which sample is in which split, by id, with what is needed to notice changed data."""
    write_json(
        path,
        {
            "schema": SPLITS_SCHEMA,
            "origin": source.origin,
            "fingerprint": source.fingerprint,
            "class_names": list(source.class_names),
            "given": sorted(source.given),
            "splits": {name: list(samples.ids) for name, samples in source.splits.items()},
        },
    )


def apply_splits(path: Path, source: DataSource) -> tuple[DataSource, list[str]]:
    """``source`` with the splits and the class order written at ``path``.

    Also sentences for the user where the data is no longer what it was: samples that are gone,
    samples that are new (they go into no split), files of other sizes. Raises: DlcliError when the
    file is damaged or a split has lost all its samples.
    """
    record = _read(path)
    names: list[str] = record["class_names"]
    pool = _pool(source)
    where = {id_: index for index, id_ in enumerate(pool.ids)}
    new_index = {old: names.index(name) for old, name in enumerate(source.class_names) if name in names}
    said, splits, gone = [], {}, []
    for split, ids in record["splits"].items():
        found = [i for i in map(where.get, ids) if i is not None]
        found = [i for i in found if int(pool.targets[i]) in new_index]
        if not found:
            raise DlcliError(
                f"none of the {len(ids)} samples of the {split} split are in {source.origin} any more",
                hint=f"{path} names them; give --data if the data has moved",
            )
        if len(found) < len(ids):
            kept = {pool.ids[i] for i in found}
            gone += [id_ for id_ in ids if id_ not in kept]
        taken = _whole_split(source, pool, found)
        targets = np.array([new_index[int(t)] for t in taken.targets], dtype=np.int64)
        splits[split] = Samples(taken.ids, targets, taken.paths, taken.pixels)
    known = {id_ for ids in record["splits"].values() for id_ in ids}
    new = [id_ for id_ in pool.ids if id_ not in known]
    if gone:
        said.append(f"{_count(gone)} of the run's splits no longer in {source.origin}: {_some(gone)}")
    if new:
        said.append(f"{_count(new)} new in {source.origin}, in none of the run's splits: {_some(new)}")
    if not gone and not new and record["fingerprint"] != source.fingerprint:
        said.append(f"{source.origin} has changed since the run: same samples, other contents")
    changed = DataSource(
        name=source.name,
        origin=source.origin,
        class_names=tuple(names),
        splits=splits,
        given=frozenset(record["given"]),
        native=source.native,
        fingerprint=source.fingerprint,
        data_dir=source.data_dir,
        warnings=source.warnings,
    )
    return changed, said


def _draw(seed: int, id_: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{id_}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _shares(count: int, wanted: Mapping[str, float]) -> dict[str, int]:
    """Samples of a class of ``count`` for each held-out split."""
    least = 1 if count >= 3 else 0
    shares = {name: max(least, round(count * share)) for name, share in wanted.items()}
    while shares and sum(shares.values()) > count - 1:
        largest = max(shares, key=lambda name: shares[name])
        shares[largest] -= 1
    return shares


def _spare(samples: Samples, chosen: dict[str, list[int]]) -> int:
    """Take one sample out of train's largest class, or else out of test, for a val that has none."""
    train, test = chosen["train"], chosen.get("test", [])
    targets, counts = np.unique(samples.targets[train], return_counts=True)
    if counts.max() >= 2:
        largest = targets[counts.argmax()]
        index = next(i for i in train if samples.targets[i] == largest)
        train.remove(index)
        return index
    if test:
        return test.pop()
    raise DlcliError(
        f"{len(samples)} samples, one a class, are too few to hold out a validation split",
        hint="add photos: a class needs at least 2, better 20",
    )


def _read(path: Path) -> dict[str, Any]:
    record = read_json(path)
    try:
        if record["schema"] != SPLITS_SCHEMA:
            raise DlcliError(f"{path} has schema {record['schema']}, this dlcli reads {SPLITS_SCHEMA}")
        names, given, splits = record["class_names"], record["given"], record["splits"]
        lists = [names, given, *splits.values()]
        whole = all(isinstance(x, str) for part in lists for x in part) and bool(splits)
    except (KeyError, TypeError, AttributeError) as exc:
        raise DlcliError(f"{path} is no splits file: {exc!r}") from exc
    if not whole or "fingerprint" not in record:
        raise DlcliError(f"{path} is no splits file")
    found: dict[str, Any] = record
    return found


def _pool(source: DataSource) -> Samples:
    """All samples of the source; pixels are left out, they are fetched split by split."""
    parts = list(source.splits.values())
    return Samples(
        ids=tuple(id_ for part in parts for id_ in part.ids),
        targets=np.concatenate([part.targets for part in parts]),
        paths=tuple(p for part in parts for p in part.paths or ()) or None,
    )


def _whole_split(source: DataSource, pool: Samples, indices: Sequence[int]) -> Samples:
    """The samples at ``indices`` of the pool. A split that did not change is not copied."""
    start = 0
    for part in source.splits.values():
        if len(indices) == len(part) and list(indices) == list(range(start, start + len(part))):
            return part
        start += len(part)
    where = np.array(indices, dtype=np.int64)
    pixels = None
    if pool.paths is None:
        pixels = _gather(list(source.splits.values()), where)
    return Samples(
        ids=tuple(pool.ids[i] for i in indices),
        targets=pool.targets[where],
        paths=None if pool.paths is None else tuple(pool.paths[i] for i in indices),
        pixels=pixels,
    )


def _gather(parts: list[Samples], where: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Rows of several pixel arrays, as if they were one, without joining them."""
    arrays = [part.pixels for part in parts if part.pixels is not None]
    out = np.empty((len(where), *arrays[0].shape[1:]), dtype=np.uint8)
    start = 0
    for array in arrays:
        here = (where >= start) & (where < start + len(array))
        out[here] = array[where[here] - start]
        start += len(array)
    return out


def _count(ids: Sequence[str]) -> str:
    return f"{len(ids)} sample{'' if len(ids) == 1 else 's'}"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (" ..." if len(ids) > 3 else "")
