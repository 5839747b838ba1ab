"""Splits: held-out samples as a function of (seed, id), and the file that records them by id."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.checksums import change_message, with_checksums
from dlcli.data.base import DataSource, Samples, Targets
from dlcli.data.copies import copy_units
from dlcli.data.source_rows import SourceRows
from dlcli.errors import DlcliError
from dlcli.files import read_json, write_json

SPLITS_SCHEMA = 1


def hold_out(
    samples: Samples, fractions: Mapping[str, float], *, seed: int, least: int = 1
) -> dict[str, Samples]:
    """Divide ``samples`` into "train" and one split for each fraction above 0.

    Stratified where each sample has one class. Samples of one group stay together; groups are not
    stratified. Exact copies stay together, unless a class has too few others (`copy_units`). The split
    of a sample depends on the seed and its own id (or group) only, not on the order of the listing.
    Every class keeps a training sample; a class of three or more gives at least one to each other split.
    With ``least`` 2 a class of six or more gives at least two to each, and a smaller one none: retrieval
    needs two samples of a class. Samples with times are divided in time: train, then the others in
    their order. Raises: DlcliError when not even one sample can be spared, or where a class comes after
    train alone.
    """
    positive = {name: share for name, share in fractions.items() if share > 0}
    if samples.clock is not None:
        times = len(np.unique(samples.clock))
        sizes = [max(1, round(times * share)) for share in positive.values()]
        return divide_in_time(samples, [times - sum(sizes), *sizes], ("train", *positive))
    chosen: dict[str, list[int]] = {"train": [], **{name: [] for name in positive}}
    for stratum in _strata(samples, least):
        drawn = sorted(stratum, key=lambda unit: (draw(seed, unit), unit))
        members = drawn if samples.groups is not None else _small_first(drawn, stratum)
        start = 0
        for name, count in _counts(len(members), positive, least).items():
            chosen[name] += [i for unit in members[start : start + count] for i in stratum[unit]]
            start += count
        chosen["train"] += [i for unit in members[start:] for i in stratum[unit]]
    if "val" in positive and not chosen["val"]:
        chosen["val"].append(_spare(samples, chosen))
    # In the order of the listing, so that files are read in their order on disk.
    return {
        name: samples.take(np.array(sorted(indices), dtype=np.int64))
        for name, indices in chosen.items()
        if indices
    }


def divide_in_time(samples: Samples, sizes: Sequence[int], names: Sequence[str]) -> dict[str, Samples]:
    """Divide samples by their times, of which each split has its number of ``sizes``, in that order.

    Samples of one time stay together. Raises: DlcliError for a split without any, or a class that train
    does not have.
    """
    assert samples.clock is not None
    times = np.unique(samples.clock)
    if min(sizes) < 1:
        raise DlcliError(
            f"{len(times)} different times are too few for {', '.join(names)}",
            hint="give fewer --folds, or smaller data.val_fraction and data.test_fraction",
        )
    which = np.searchsorted(np.cumsum(sizes), np.searchsorted(times, samples.clock), side="right")
    splits = {name: samples.take(np.flatnonzero(which == part)) for part, name in enumerate(names)}
    if one_class(samples):
        held = np.concatenate([splits[name].targets for name in names[1:]])
        late = len(np.setdiff1d(held, splits["train"].targets))
        if late:
            raise DlcliError(
                f"{'a class comes' if late == 1 else f'{late} classes come'} after the training split "
                "in time alone, so no model could know it",
                hint="give fewer --folds, or leave --time-column out",
            )
    return splits


def write_splits(path: Path, source: DataSource) -> None:
    """Write the ids of each split, and what detects changed data."""
    record = {
        "schema": SPLITS_SCHEMA,
        "origin": source.origin,
        "fingerprint": source.fingerprint,
        "class_names": list(source.class_names),
        "given": sorted(source.given),
        "splits": {name: list(samples.ids) for name, samples in source.splits.items()},
        **({"left_out": list(source.left_out)} if source.left_out else {}),
    }
    write_json(path, with_checksums(record))


def apply_splits(path: Path, source: DataSource) -> tuple[DataSource, list[str]]:
    """Return ``source`` with the splits and the class order recorded at ``path``.

    Also messages where the data has changed: missing samples, new samples (they are in no split), files
    of other sizes; and where somebody has changed the file itself. Raises: DlcliError when the file is
    damaged or all samples of a split are missing.
    """
    record = _read(path)
    names: list[str] = record["class_names"]
    parts = list(source.splits.values())
    pool = [id_ for part in parts for id_ in part.ids]
    position = {id_: index for index, id_ in enumerate(pool)}
    edited = change_message(path, record)
    messages = [] if edited is None else [edited]
    splits: dict[str, Samples] = {}
    missing: list[str] = []
    for split, ids in record["splits"].items():
        indices = [i for i in map(position.get, ids) if i is not None]
        part, _ = match_classes(take_from(parts, np.array(indices, dtype=np.int64)), source, names)
        if not len(part):
            raise DlcliError(
                f"none of the {len(ids)} samples of the {split} split are in {source.origin} any more",
                hint=f"{path} names them; give --data if the data has moved",
            )
        if len(part) < len(ids):
            present = set(part.ids)
            missing += [id_ for id_ in ids if id_ not in present]
        splits[split] = part
    left_out = tuple(record.get("left_out", ()))
    known = {id_ for ids in (*record["splits"].values(), left_out) for id_ in ids}
    new = [id_ for id_ in pool if id_ not in known]
    if missing:
        messages.append(
            f"{_count(missing)} of the run's splits no longer in {source.origin}: {_some(missing)}"
        )
    if new:
        messages.append(
            f"{_count(new)} new in {source.origin}, in none of the run's splits: {_some(new)}"
        )
    if not missing and not new and record["fingerprint"] != source.fingerprint:
        messages.append(f"{source.origin} has changed since the run: same samples, other contents")
    given = frozenset(record["given"])
    source = replace(source, class_names=tuple(names), splits=splits, given=given, left_out=left_out)
    return source, messages


def left_out_samples(path: Path, source: DataSource) -> Samples:
    """The samples of ``source`` that the record at ``path`` leaves out of all folds.

    Raises: DlcliError when the file is damaged or some of them are missing.
    """
    record = _read(path)
    parts = list(source.splits.values())
    position = {id_: index for index, id_ in enumerate(id_ for part in parts for id_ in part.ids)}
    ids = record.get("left_out", ())
    missing = [id_ for id_ in ids if id_ not in position]
    if missing or not ids:
        raise DlcliError(
            f"{_count(missing)} of the {len(ids)} that {path} leaves out of all folds are not in "
            f"{source.origin}: {_some(missing)}",
            hint="the data has changed since",
        )
    indices = np.array([position[id_] for id_ in ids], dtype=np.int64)
    return match_classes(take_from(parts, indices), source, record["class_names"])[0]


def match_classes(
    samples: Samples, source: DataSource, names: Sequence[str]
) -> tuple[Samples, list[str]]:
    """Map the targets of ``samples`` from the classes of ``source`` to indices into ``names``.

    Returns the samples, without those of other classes (in multi-label data: with other labels), and
    the names of these classes.
    """
    has_classes = bool(source.class_names) or source.task == "multilabel"
    if tuple(names) == source.class_names or not has_classes:
        return samples, []
    # An accented letter has two spellings in Unicode; they name one class.
    index = {unicodedata.normalize("NFC", name): i for i, name in enumerate(names)}
    new = np.array(
        [index.get(unicodedata.normalize("NFC", name), -1) for name in source.class_names], np.int64
    )
    if source.task == "multilabel":
        has = samples.targets.astype(bool)
        keep = ~has[:, new < 0].any(axis=1)
        targets: Targets = np.zeros((len(samples), len(names)), dtype=np.uint8)
        targets[:, new[new >= 0]] = samples.targets[:, new >= 0]
        unknown = (new < 0) & has.any(axis=0)
    else:
        targets = new[samples.targets]
        keep = targets >= 0
        unknown = np.zeros(len(new), dtype=bool)
        unknown[samples.targets[~keep]] = True
    samples = replace(samples, targets=targets)
    if not keep.all():
        samples = samples.take(np.flatnonzero(keep))
    return samples, [source.class_names[i] for i in np.flatnonzero(unknown)]


def _indices(names: Sequence[str]) -> dict[str, int]:
    """The index of each class by its composed name: a run may have recorded another form."""
    return {_composed(name): i for i, name in enumerate(names)}


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _strata(samples: Samples, least: int) -> Iterator[dict[str, list[int]]]:
    """The strata to divide: each maps an id or group to the indices of its samples.

    Copies are one unit, in the stratum of the first by id; in a stratum of too few units to divide,
    each sample is one.
    """
    if samples.groups is not None:
        by_group: dict[str, list[int]] = {}
        for index, group in enumerate(samples.groups):
            by_group.setdefault(group, []).append(index)
        yield by_group
        return
    labels = samples.targets if one_class(samples) else np.zeros(len(samples), dtype=np.int64)
    units: dict[str, list[int]] = {}
    for index, unit in enumerate(copy_units(samples)):
        units.setdefault(unit, []).append(index)
    strata: dict[int, dict[str, list[int]]] = {label: {} for label in np.unique(labels).tolist()}
    for unit, indices in units.items():
        first = next(i for i in indices if samples.ids[i] == unit)
        strata[int(labels[first])][unit] = indices
    for stratum in strata.values():
        if len(stratum) < 3 * least:
            stratum = {samples.ids[i]: [i] for indices in stratum.values() for i in indices}
        yield stratum


def _small_first(drawn: list[str], stratum: Mapping[str, Sequence[int]]) -> list[str]:
    """The units as drawn, but one of over half of the samples last: it belongs in train."""
    total = sum(map(len, stratum.values()))
    return sorted(drawn, key=lambda unit: 2 * len(stratum[unit]) > total)


def one_class(samples: Samples) -> bool:
    """Whether each sample has one class, rather than several labels or numbers."""
    return samples.targets.ndim == 1 and samples.targets.dtype == np.int64


def draw(seed: int, id_: str) -> int:
    """A number below 2^64 that depends on the seed and the id alone."""
    digest = hashlib.blake2b(f"{seed}/{id_}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _counts(count: int, fractions: Mapping[str, float], least: int) -> dict[str, int]:
    """The number of samples for each held-out split, of a class of ``count``."""
    if count < 3 * least:
        if least > 1:
            return {}
        least = 0
    shares = {name: max(least, round(count * share)) for name, share in fractions.items()}
    while shares and sum(shares.values()) > count - 1:
        largest = max(shares, key=lambda name: shares[name])
        shares[largest] -= 1
    return shares


def _spare(samples: Samples, chosen: dict[str, list[int]]) -> int:
    """Move one sample out of train's largest class, or else out of test, into an empty val."""
    train, test = chosen["train"], chosen.get("test", [])
    if samples.groups is not None:
        raise DlcliError(
            f"{len(set(samples.groups))} groups are too few to hold one out for validation",
            hint="give a split column, or leave the group column out",
        )
    is_class = one_class(samples)
    labels = samples.targets[train] if is_class else np.zeros(len(train), dtype=np.int64)
    classes, counts = np.unique(labels, return_counts=True)
    if counts.max() >= 2:
        return train.pop(int(np.argmax(labels == classes[counts.argmax()])))
    if test:
        return test.pop()
    what = f"{len(samples)} samples, one a class, are" if is_class else "one sample is"
    raise DlcliError(
        f"{what} too few to hold out a validation split",
        hint="add samples: " + ("a class needs at least 2, better 20" if is_class else "20 or more"),
    )


def _read(path: Path) -> dict[str, Any]:
    record = read_json(path)
    try:
        if record["schema"] != SPLITS_SCHEMA:
            raise DlcliError(f"{path} has schema {record['schema']}, this dlcli reads {SPLITS_SCHEMA}")
        names, given, splits = record["class_names"], record["given"], record["splits"]
        lists = [names, given, *splits.values(), record.get("left_out", [])]
        is_valid = all(
            isinstance(part, list) and all(isinstance(x, str) for x in part) for part in lists
        )
        is_valid = is_valid and {"train", "val"} <= splits.keys() <= {"train", "val", "test"}
    except (KeyError, TypeError, AttributeError) as exc:
        raise DlcliError(f"{path} is no splits file: {exc!r}") from exc
    if not is_valid or "fingerprint" not in record:
        raise DlcliError(f"{path} is no splits file")
    splits_record: dict[str, Any] = record
    return splits_record


def take_from(parts: Sequence[Samples], where: npt.NDArray[np.int64]) -> Samples:
    """The samples at ``where`` in the concatenation of splits; a whole split is not copied."""
    start = 0
    for part in parts:
        if len(where) == len(part) and bool((where == np.arange(start, start + len(part))).all()):
            return part
        start += len(part)
    ids = [id_ for part in parts for id_ in part.ids]
    groups = [g for part in parts for g in part.groups or ()]
    source = SourceRows.joined([part.source_rows for part in parts])
    live = [part.live for part in parts if part.live is not None]
    clocks = [part.clock for part in parts if part.clock is not None]
    return Samples(
        ids=tuple(ids[i] for i in where),
        targets=np.concatenate([part.targets for part in parts])[where],
        items=parts[0].items.gather([part.items for part in parts], where),
        groups=tuple(groups[i] for i in where) if groups else None,
        clock=np.concatenate(clocks)[where] if clocks else None,
        source_rows=None if source is None else source.take(where),
        live=live[0].gather(live, where) if live else None,
    )


def _count(ids: Sequence[str]) -> str:
    return f"{len(ids)} sample{'' if len(ids) == 1 else 's'}"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (" ..." if len(ids) > 3 else "")
