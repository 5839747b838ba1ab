"""List the data set of ``--data file.py:NAME`` as one of the kinds of data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import Samples, Stacked, fingerprint
from dlcli.data.kinds import DataListing
from dlcli.data.notices import Notice, left_out
from dlcli.data.tables.split_names import SPLIT_NAMES
from dlcli.data.user_sets.conversion import Conversion, fit_conversion
from dlcli.data.user_sets.live import LiveSplit, UserSamples
from dlcli.data.user_sets.targets import TargetEncoder, fit_targets
from dlcli.errors import DlcliError
from dlcli.user_data.calling import UserSet, call, is_map_style
from dlcli.user_data.reading import Columns, Rows, read_split
from dlcli.wording import number, plural

_SLOW_S = 5.0  # seconds of reading that are worth a note


def read_user_set(text: str, config: DataConfig, other: bool) -> tuple[DataListing, str, str]:
    """Run the user's code and read its data set; returns the listing, its kind and its full name.

    With ``other`` it is for a trained model. Raises: DlcliError and UsageError, in one sentence, for
    whatever the code or its samples lack.
    """
    started = time.monotonic()
    user = call(text, config.args, SPLIT_NAMES)
    parts: dict[str, Columns] = {}
    for split in (name for name in ("all", "train", "val", "test") if name in user.splits):
        first = next(iter(parts.values())).first if parts else None
        parts[split] = read_split(user, split, first, fail=config.on_bad_sample == "fail")
    seconds = time.monotonic() - started
    _unify(list(parts.values()))
    first_part = next(iter(parts.values()))
    kind = "pairs" if config.task == "seq2seq" else config.kind
    names = user.attribute("columns")
    conversion = fit_conversion(
        first_part.first,
        [part.inputs for part in parts.values()],
        kind,
        names if isinstance(names, list | tuple) else (),
    )
    listing = _listing(user, parts, conversion, config, other)
    if seconds >= _SLOW_S:  # code can read anything, so no cache could tell when its samples change
        message = f"reading it took {seconds:.0f} s; each command reads a data set of your own anew"
        listing = replace(listing, notices=(*listing.notices, Notice(message)))
    user.code.works()
    return listing, conversion.kind, user.code.name


def _unify(parts: Sequence[Columns]) -> None:
    """Give the splits lists of values where they have not all one shape."""
    for name in parts[0].inputs:
        rows = [part.inputs[name] for part in parts]
        if len({each.shape[1:] if isinstance(each, np.ndarray) else None for each in rows}) > 1:
            for part in parts:
                part.inputs[name] = list(part.inputs[name])


def _listing(
    user: UserSet, parts: Mapping[str, Columns], conversion: Conversion, config: DataConfig, other: bool
) -> DataListing:
    encoder = None
    if conversion.kind != "pairs":
        targets = {split: part.targets for split, part in parts.items()}
        classes = user.attribute("classes")
        encoder = fit_targets(targets, classes, config, other=other, where=user.code.name)
    splits, notices = {}, _notices(user, parts, conversion, encoder)
    for split, part in parts.items():
        splits[split], more = _samples(user, part, conversion, encoder)
        if any(each.varies for each in parts.values()):
            splits[split] = replace(splits[split], live=_live(user, part, conversion))
        notices += more
    inferred = None if encoder is None else encoder.inferred
    task = "seq2seq" if inferred is None else inferred.task
    return DataListing(
        splits=splits,
        fingerprint=_fingerprint(parts),
        task=task,
        class_names=() if inferred is None else inferred.class_names,
        target_names=() if inferred is None or task != "regression" else inferred.target_names,
        native=_native(splits) if conversion.kind == "image" else (0, 0, 0),
        options={
            **{"kind": conversion.kind, "task": task},
            **({"args": dict(user.args)} if user.args else {}),
            **({} if inferred is None else inferred.options),
        },
        notices=tuple(notices),
    )


def _samples(
    user: UserSet, part: Columns, conversion: Conversion, encoder: TargetEncoder | None
) -> tuple[Samples, list[Notice]]:
    """The samples of a split, and notices of those that are left out."""
    where = user.code.name if part.split == "all" else f"{user.code.name} ({part.split})"
    notices, bad = [], part.bad
    if bad:
        reason = next(iter(bad.values()))
        total = len(bad) + len(part.indices)
        message = f"{len(bad):,} of {total:,} samples of {where} cannot be read and are left out"
        notices.append(left_out(f"{message}: {reason}"))
    if encoder is None:
        targets = np.zeros(len(part.indices), dtype=np.int64)
    else:
        targets, valid = encoder.encode(part.targets, where)
        if not valid.all():
            count = plural(len(valid) - len(targets), "sample")
            notices.append(left_out(f"{where}: {count} without a target left out"))
            part.take(valid)
    if not len(targets):
        raise DlcliError(f"{where}: no sample has a target")
    prefix = "" if part.split == "all" else f"{part.split}/"
    samples = Samples(
        ids=tuple(f"{prefix}{i}" for i in part.indices),
        targets=targets,
        items=conversion.items(part.inputs, part.targets),
    )
    return samples, notices


def _live(user: UserSet, part: Columns, conversion: Conversion) -> UserSamples | None:
    """The samples of a split to be drawn anew; None of an iterable, which is read once."""
    data = user.splits[part.split]
    if not is_map_style(data):
        return None
    targets = dict(zip(part.indices, part.targets, strict=True))
    live = LiveSplit(user.code, data, part.split, part.length, part.first, targets, conversion)
    where = np.array([(0, index) for index in part.indices], dtype=np.int64)
    return UserSamples((live,), where)


def _notices(
    user: UserSet,
    parts: Mapping[str, Columns],
    conversion: Conversion,
    encoder: TargetEncoder | None,
) -> list[Notice]:
    """What the samples are, and what they are taken for."""
    part = next(iter(parts.values()))
    total = sum(len(each.indices) for each in parts.values())
    words = f"{plural(total, 'sample')} of {part.first.describe()}"
    ranges = [f"{name} from {_range(rows)}" for name, rows in part.inputs.items() if _range(rows)]
    words += f" ({', '.join(ranges[:3])})" if ranges else ""
    task = "seq2seq" if encoder is None else encoder.inferred.task
    notices = [Notice(f"{words}, read as {conversion.kind} data for {task}")]
    if conversion.kind == "tensor":
        message = "the model takes these tensors as they are"
        if conversion.images:
            message += f"; {', '.join(sorted(conversion.images))} from 0 to 1"
        if len(part.inputs) == 1 and not conversion.images:
            message += " (--kind image rounds them to 8 bits)" if _may_be_image(part) else ""
        notices.append(Notice(message))
    if conversion.pixel_range is not None:
        sides = (dict.fromkeys(map(number, side)) for side in conversion.pixel_range)
        low, high = (", ".join(side) for side in sides)
        how = "are 8-bit pixels" if conversion.exact else "are rounded to 8 bits"
        notices.append(Notice(f"values from {low} to {high} {how}, normalised by dlcli"))
    if encoder is not None:
        notices += encoder.inferred.notices
    if any(each.varies for each in parts.values()):
        message = "samples draw random numbers: training reads them anew in every epoch, seeded by "
        notices.append(Notice(message + "(seed, epoch, sample); val and test are one reading of them"))
    if user.attribute("collate_fn") is not None:
        notices.append(Notice("its collate_fn is not called: samples are encoded once, then batched"))
    return notices


def _may_be_image(part: Columns) -> bool:
    (value,) = part.first.inputs.values()
    if isinstance(value, str) or value.ndim != 3:
        return False
    return value.shape[0] in (1, 3) or value.shape[2] in (1, 3)


def _range(rows: Rows) -> str:
    """The lowest and highest finite number; empty for others."""
    if not isinstance(rows, np.ndarray):
        return ""
    finite = rows[np.isfinite(rows)] if rows.dtype.kind == "f" else rows
    return f"{number(float(finite.min()))} to {number(float(finite.max()))}" if finite.size else ""


def _native(splits: Mapping[str, Samples]) -> tuple[int, int, int]:
    """(C, H, W) of images of one shape; (C, 0, 0) where sizes differ."""
    shapes = {
        shape
        for part in splits.values()
        for shape in (
            [part.items.values.shape[1:]]
            if isinstance(part.items, Stacked)
            else [pixels.shape for pixels in getattr(part.items, "values", ())]
        )
    }
    if len(shapes) == 1:
        height, width, channels = shapes.pop()
        return channels, height, width
    return max(shape[2] for shape in shapes), 0, 0


def _fingerprint(parts: Mapping[str, Columns]) -> str:
    pieces: list[bytes] = []
    for split, part in parts.items():
        pieces.append("\0".join([split, *map(str, part.indices)]).encode())
        pieces.append(repr([_plain(target) for target in part.targets]).encode())
        for name, rows in part.inputs.items():
            pieces += [name.encode(), *_contents(rows)]
    return fingerprint(pieces)


def _contents(rows: Rows) -> list[bytes]:
    if isinstance(rows, np.ndarray):
        return [str((rows.dtype, rows.shape)).encode(), np.ascontiguousarray(rows).tobytes()]
    return [row.encode() if isinstance(row, str) else row.tobytes() for row in rows]


def _plain(target: Any) -> Any:
    return target.tolist() if isinstance(target, np.ndarray) else target
