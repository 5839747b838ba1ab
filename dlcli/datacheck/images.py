"""Photos and raw arrays of pixels: what cannot be read, sizes, modes, blank pictures, copies.

Every photo is read once and decoded as training would decode it, so that what is reported as
unreadable is what training would skip. Legend: N samples of a split.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from dlcli.data.base import DataSource, Indices, Labels, Listed, Pixels, Samples, Stacked
from dlcli.data.images.decode import decode
from dlcli.data.images.formats import PILLOW_FORMATS
from dlcli.datacheck.base import (
    CHECKS,
    CheckOptions,
    Histogram,
    Part,
    Points,
    Table,
    counted,
    share,
    spread,
)
from dlcli.errors import BadSample
from dlcli.task import ImageInput, TaskSpec

_ORIENTATION = 0x0112
_BLOCK = 256  # photos that wait for a thread at a time
_SLIM = 4.0  # a longer side of so many times the shorter: a crop of the centre shows a part only
_MODES = {
    "1": "black and white", "L": "grey", "LA": "grey with transparency", "P": "palette",
    "RGB": "colour", "RGBA": "colour with transparency", "CMYK": "CMYK",
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """One photo: (width, height) as people see it, how it is stored, its content, or what is wrong."""

    size: tuple[int, int] | None = None
    mode: str = ""
    format: str = ""
    turned: bool = False
    blank: bool = False
    content: bytes | None = None
    reason: str | None = None


def check_images(source: DataSource, task: TaskSpec | None, options: CheckOptions) -> Part:
    """The check of the kind "image"."""
    part = Part(noun="image")
    if isinstance(source.splits["train"].items, Stacked):
        _arrays(source, part)
        return part
    part.noun = "photo"
    spec = task.input if task is not None else None
    assert isinstance(spec, ImageInput)
    chosen = _chosen(source, options.most_read, options.config.fit.seed)
    total = sum(map(len, source.splits.values()))
    read = sum(map(len, chosen.values()))
    if read < total:
        part.find(
            "note",
            "sampled",
            f"{read:,} of {total:,} photos were read, drawn at random; the others were only listed",
            hint="--all reads every one",
        )
    looks = _look_at_all(source, chosen, spec, options)
    _unreadable(source, looks, part)
    _sizes(looks, part, spec)
    _storage(source, looks, part)
    for split, samples in source.splits.items():
        keys: list[bytes | None] = [None] * len(samples)
        for index, look in looks[split].items():
            keys[index] = look.content
        part.contents[split] = keys
    return part


def look(path: Path, spec: ImageInput) -> Look:
    """Read and decode one photo."""
    try:
        raw = path.read_bytes() if path.is_file() else b""
    except OSError as exc:
        return Look(reason=exc.strerror or str(exc))
    # An empty file is no copy of another empty one: it is unreadable, and said to be.
    content = hashlib.blake2b(raw, digest_size=16).digest() if raw else None
    try:
        pixels = decode(path, spec)
    except BadSample as exc:
        return Look(content=content, reason=exc.message)
    with Image.open(io.BytesIO(raw), formats=PILLOW_FORMATS) as image:
        size, mode, kind = image.size, image.mode, image.format or ""
        try:
            turned = int(image.getexif().get(_ORIENTATION, 1))
        except (OSError, SyntaxError, ValueError, TypeError):  # damaged notes beside a whole picture
            turned = 1
    return Look(
        size=(size[1], size[0]) if turned in range(5, 9) else size,
        mode=mode,
        format=kind,
        turned=turned in range(2, 9),
        blank=bool(pixels.min() == pixels.max()),
        content=content,
    )


def _chosen(source: DataSource, most: int | None, seed: int) -> dict[str, Indices]:
    """Which photos of each split are read: all, or a share of each at random."""
    total = sum(map(len, source.splits.values()))
    rng = np.random.default_rng(seed)
    chosen = {}
    for split, samples in source.splits.items():
        where = np.arange(len(samples), dtype=np.int64)
        if most is not None and total > most:
            where = np.sort(rng.choice(where, max(1, most * len(where) // total), replace=False))
        chosen[split] = where
    return chosen


def _look_at_all(
    source: DataSource, chosen: dict[str, Indices], spec: ImageInput, options: CheckOptions
) -> dict[str, dict[int, Look]]:
    """Split to position to what was seen; ``options.watch`` hears of the progress."""
    total, done = sum(map(len, chosen.values())), 0
    workers = options.config.data.workers or os.cpu_count() or 1
    found: dict[str, dict[int, Look]] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="dlcli-check") as pool:
        for split, where in chosen.items():
            items = source.splits[split].items
            assert isinstance(items, Listed)
            found[split] = {}
            for block in _blocks(where.tolist()):
                paths = [items.values[i] for i in block]
                for index, seen in zip(block, pool.map(look, paths, [spec] * len(paths)), strict=True):
                    found[split][index] = seen
                done += len(block)
                options.watch(done, total)
    return found


def _blocks(where: list[int]) -> Iterator[list[int]]:
    rest = iter(where)
    while block := list(islice(rest, _BLOCK)):
        yield block


def _unreadable(source: DataSource, looks: dict[str, dict[int, Look]], part: Part) -> None:
    bad = [
        f"{source.splits[split].ids[i]}: {seen.reason}"
        for split, of_split in looks.items()
        for i, seen in of_split.items()
        if seen.reason is not None
    ]
    if bad:
        read = sum(map(len, looks.values()))
        part.find(
            "error",
            "unreadable",
            f"{counted(len(bad), 'photo')} of {read:,} cannot be read",
            examples=bad,
            hint="repair or remove them; training would skip and count them",
        )


def _sizes(looks: dict[str, dict[int, Look]], part: Part, spec: ImageInput) -> None:
    sizes = {
        split: np.array([seen.size for seen in of_split.values() if seen.size], dtype=np.int64)
        for split, of_split in looks.items()
    }
    sizes = {split: values for split, values in sizes.items() if len(values)}
    if not sizes:
        return
    every = np.concatenate(list(sizes.values()))  # (n, 2)
    part.facts["width"] = f"{spread(every[:, 0])} pixels"
    part.facts["height"] = f"{spread(every[:, 1])} pixels"
    seen_as = f"{spec.width} x {spec.height}, {'grey' if spec.channels == 1 else 'colour'}"
    part.facts["model's input"] = f"{seen_as}, {spec.resize} ({spec.interpolation})"
    different, counts = np.unique(every, axis=0, return_counts=True)
    if counts.max() > 1:
        part.tables.append(_size_table(different, counts))
    if len(different) > 1:
        part.charts.append(Points("sizes", "sizes of photos", ("width", "height"), sizes))
        part.charts.append(
            Histogram(
                "megapixels", "pixels of a photo", "megapixels",
                {split: values.prod(axis=1) / 1e6 for split, values in sizes.items()},
            )
        )  # fmt: skip
    small = int((every.min(axis=1) < min(spec.height, spec.width)).sum())
    if small:
        message = (
            f"{share(small, len(every))} of the photos ({small:,}) are smaller than the model's input"
        )
        part.find("note", "small-photos", message, hint="they are enlarged; --img-size sets the input")
    slim = int((every.max(axis=1) > _SLIM * every.min(axis=1)).sum())
    if slim and spec.resize == "crop":
        message = f"{counted(slim, 'photo')} more than {_SLIM:g} times as long as wide, or the reverse"
        part.find(
            "note", "slim-photos", message,
            hint="the crop keeps the centre only; --set model.resize=squash keeps all",
        )  # fmt: skip


def _size_table(different: Labels, counts: Labels) -> Table:
    """The ten most frequent of sizes (n, 2), which ``counts`` (n,) photos have."""
    order = np.argsort(-counts, kind="stable")[:10].tolist()
    total = int(counts.sum())
    rows = tuple(
        (f"{different[i, 0]} x {different[i, 1]}", int(counts[i]), share(int(counts[i]), total))
        for i in order
    )
    title = f"sizes, width x height: {counted(len(counts), 'different one')}"
    title += ", the most frequent" if len(counts) > len(rows) else ""
    return Table("sizes", title, ("size", "photos", "share"), rows)


def _storage(source: DataSource, looks: dict[str, dict[int, Look]], part: Part) -> None:
    """Formats, modes, turned and blank photos."""
    seen = [one for of_split in looks.values() for one in of_split.values() if one.reason is None]
    part.facts["formats"] = _tally(one.format for one in seen)
    part.facts["modes"] = _tally(_MODES.get(one.mode, one.mode) for one in seen)
    turned = sum(one.turned for one in seen)
    if turned:
        message = f"{counted(turned, 'photo')} stored turned, with a note that says how (EXIF)"
        part.find("note", "turned-photos", message, hint="dlcli turns them upright; others may not")
    blank = [
        source.splits[split].ids[i]
        for split, of_split in looks.items()
        for i, one in of_split.items()
        if one.blank
    ]
    if blank:
        message = f"{counted(len(blank), 'photo')} of one colour: nothing is on them"
        part.find("warning", "blank", message, examples=blank, hint="they teach nothing: remove them")


def _tally(words: Iterator[str]) -> str:
    counts = Counter(words).most_common()
    return ", ".join(f"{word} {count:,}" for word, count in counts[:6]) or "none"


def _arrays(source: DataSource, part: Part) -> None:
    """Raw pixels (N, H, W, C) of one size."""
    channels, height, width = source.native
    part.facts["size"] = f"{width} x {height}, {'grey' if channels == 1 else f'{channels} channels'}"
    blank: list[str] = []
    values = {}
    for split, samples in source.splits.items():
        pixels = _pixels(samples)
        flat = pixels.reshape(len(pixels), -1)
        part.contents[split] = [hashlib.blake2b(row.data, digest_size=16).digest() for row in flat]
        where = np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
        blank += [samples.ids[i] for i in where.tolist()]
        values[split] = flat.mean(axis=1, dtype=np.float32)
    part.charts.append(Histogram("brightness", "mean of an image", "mean pixel, 0 to 255", values))
    if blank:
        message = f"{counted(len(blank), 'image')} of one colour: nothing is on them"
        part.find("warning", "blank", message, examples=blank)


def _pixels(samples: Samples) -> Pixels:
    items = samples.items
    assert isinstance(items, Stacked)
    return np.ascontiguousarray(items.values)


CHECKS.register("image")(check_images)
