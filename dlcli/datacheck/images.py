"""Photos and raw pixel arrays: unreadable files, sizes, modes, blank images, duplicates.

Every photo is read once and decoded as in training, so that those reported as unreadable are those
that training would skip. Legend: N samples of a split.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from dlcli.data.base import DataSource, Indices, Labels, Listed, Pixels, Stacked
from dlcli.data.images.synthetic import reference_input
from dlcli.data.kinds import ModelNeeds
from dlcli.datacheck.base import (
    CHECKS,
    CheckOptions,
    CheckResult,
    Histogram,
    Points,
    Table,
    median_and_range,
    percent,
)
from dlcli.errors import BadSample
from dlcli.machine.threads import usable_cores
from dlcli.pixels.decode import decode
from dlcli.pixels.opening import open_image, orientation
from dlcli.task import ImageInput, TaskSpec
from dlcli.wording import plural

_BLOCK = 256  # photos in the queue of the threads
_MAX_ASPECT = 4.0  # beyond it a centre crop shows a small part only
_MODES = {
    "1": "black and white", "L": "grey", "LA": "grey with transparency", "P": "palette",
    "I;16": "grey, 16 bits", "I": "grey, 32 bits", "F": "grey, floats",
    "RGB": "colour", "RGBA": "colour with transparency", "CMYK": "CMYK",
}  # fmt: skip


@dataclass(frozen=True)
class PhotoFacts:
    """One photo: (width, height) after EXIF orientation, how it is stored, its hash, or the error."""

    size: tuple[int, int] | None = None
    mode: str = ""
    format: str = ""
    rotated: bool = False
    blank: bool = False
    content: bytes | None = None
    error: str | None = None


def check_images(source: DataSource, task: TaskSpec | None, options: CheckOptions) -> CheckResult:
    """The check of the kind "image"."""
    result = CheckResult(noun="image")
    items = source.splits["train"].items
    if not (isinstance(items, Listed) and items.are_files):
        _check_arrays(source, result)
        return result
    result.noun = "photo"
    # Without a task, such as with a class of unreadable photos: as a model of any size reads them.
    spec = reference_input(ModelNeeds()) if task is None else task.input
    assert isinstance(spec, ImageInput)
    chosen = _choose(source, options.max_decoded, options.config.fit.seed)
    total = sum(map(len, source.splits.values()))
    read = sum(map(len, chosen.values()))
    if read < total:
        result.report(
            "note",
            "sampled",
            f"{read:,} of {total:,} photos were read, drawn at random; the others were only listed",
            hint="--all reads every one",
        )
    photos = _inspect_all(source, chosen, spec, options)
    _check_unreadable(source, photos, result)
    _check_sizes(photos, result, spec)
    _check_storage(source, photos, result)
    for split, samples in source.splits.items():
        hashes: list[bytes | None] = [None] * len(samples)
        for index, photo in photos[split].items():
            hashes[index] = photo.content
        result.contents[split] = hashes
    return result


def inspect_photo(path: Path, spec: ImageInput) -> PhotoFacts:
    """Read and decode one photo."""
    try:
        raw = path.read_bytes() if path.is_file() else b""
    except OSError as exc:
        return PhotoFacts(error=exc.strerror or str(exc))
    # Empty files are unreadable, not duplicates of each other.
    content = hashlib.blake2b(raw, digest_size=16).digest() if raw else None
    try:
        pixels = decode(path, spec)
    except BadSample as exc:
        return PhotoFacts(content=content, error=exc.message)
    with open_image(io.BytesIO(raw)) as image:
        size, mode, kind = image.size, image.mode, image.format or ""
        turned = orientation(image)
    return PhotoFacts(
        size=(size[1], size[0]) if turned in range(5, 9) else size,
        mode=mode,
        format=kind,
        rotated=turned in range(2, 9),
        blank=bool(pixels.min() == pixels.max()),
        content=content,
    )


def _choose(source: DataSource, max_decoded: int | None, seed: int) -> dict[str, Indices]:
    """Return the indices of the photos to read: all, or a random share of each split."""
    total = sum(map(len, source.splits.values()))
    rng = np.random.default_rng(seed)
    chosen = {}
    for split, samples in source.splits.items():
        where = np.arange(len(samples), dtype=np.int64)
        if max_decoded is not None and total > max_decoded:
            where = np.sort(rng.choice(where, max(1, max_decoded * len(where) // total), replace=False))
        chosen[split] = where
    return chosen


def _inspect_all(
    source: DataSource, chosen: dict[str, Indices], spec: ImageInput, options: CheckOptions
) -> dict[str, dict[int, PhotoFacts]]:
    """Inspect the chosen photos in threads: facts by split and index."""
    total, done = sum(map(len, chosen.values())), 0
    workers = options.config.data.workers or usable_cores()
    photos: dict[str, dict[int, PhotoFacts]] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="dlcli-check") as pool:
        for split, where in chosen.items():
            items = source.splits[split].items
            assert isinstance(items, Listed)
            photos[split] = {}
            for block in _blocks(where.tolist()):
                paths = [items.values[i] for i in block]
                for index, photo in zip(
                    block, pool.map(inspect_photo, paths, [spec] * len(paths)), strict=True
                ):
                    photos[split][index] = photo
                done += len(block)
                options.progress(done, total)
    return photos


def _blocks(where: list[int]) -> Iterator[list[int]]:
    rest = iter(where)
    while block := list(islice(rest, _BLOCK)):
        yield block


def _check_unreadable(
    source: DataSource, photos: dict[str, dict[int, PhotoFacts]], result: CheckResult
) -> None:
    unreadable = [
        f"{source.splits[split].ids[i]}: {photo.error}"
        for split, of_split in photos.items()
        for i, photo in of_split.items()
        if photo.error is not None
    ]
    if unreadable:
        read = sum(map(len, photos.values()))
        result.report(
            "error",
            "unreadable",
            f"{plural(len(unreadable), 'photo')} of {read:,} cannot be read",
            examples=unreadable,
            hint="repair or remove them; training would skip and count them",
        )


def _check_sizes(
    photos: dict[str, dict[int, PhotoFacts]], result: CheckResult, spec: ImageInput
) -> None:
    sizes = {
        split: np.array([photo.size for photo in of_split.values() if photo.size], dtype=np.int64)
        for split, of_split in photos.items()
    }
    sizes = {split: values for split, values in sizes.items() if len(values)}
    if not sizes:
        return
    all_sizes = np.concatenate(list(sizes.values()))  # (n, 2)
    result.facts["width"] = f"{median_and_range(all_sizes[:, 0])} pixels"
    result.facts["height"] = f"{median_and_range(all_sizes[:, 1])} pixels"
    model_input = f"{spec.width} x {spec.height}, {'grey' if spec.channels == 1 else 'colour'}"
    result.facts["model's input"] = f"{model_input}, {spec.resize} ({spec.interpolation})"
    distinct, counts = np.unique(all_sizes, axis=0, return_counts=True)
    if counts.max() > 1:
        result.tables.append(_size_table(distinct, counts))
    if len(distinct) > 1:
        result.charts.append(Points("sizes", "sizes of photos", ("width", "height"), sizes))
        result.charts.append(
            Histogram(
                "megapixels", "pixels of a photo", "megapixels",
                {split: values.prod(axis=1) / 1e6 for split, values in sizes.items()},
            )
        )  # fmt: skip
    small = int((all_sizes.min(axis=1) < min(spec.height, spec.width)).sum())
    if small:
        share = percent(small, len(all_sizes))
        message = f"{share} of the photos ({small:,}) are smaller than the model's input"
        result.report(
            "note", "small-photos", message, hint="they are enlarged; --img-size sets the input"
        )
    narrow = int((all_sizes.max(axis=1) > _MAX_ASPECT * all_sizes.min(axis=1)).sum())
    if narrow and spec.resize == "crop":
        message = (
            f"{plural(narrow, 'photo')} more than {_MAX_ASPECT:g} times as long as wide, or the reverse"
        )
        result.report(
            "note", "slim-photos", message,
            hint="the crop keeps the centre only; --set model.resize=squash keeps all",
        )  # fmt: skip


def _size_table(distinct: Labels, counts: Labels) -> Table:
    """The ten most frequent of sizes (n, 2), which ``counts`` (n,) photos have."""
    order = np.argsort(-counts, kind="stable")[:10].tolist()
    total = int(counts.sum())
    rows = tuple(
        (f"{distinct[i, 0]} x {distinct[i, 1]}", int(counts[i]), percent(int(counts[i]), total))
        for i in order
    )
    title = f"sizes, width x height: {plural(len(counts), 'different one')}"
    title += ", the most frequent" if len(counts) > len(rows) else ""
    return Table("sizes", title, ("size", "photos", "share"), rows)


def _check_storage(
    source: DataSource, photos: dict[str, dict[int, PhotoFacts]], result: CheckResult
) -> None:
    """Check formats, modes, EXIF orientation and blank photos."""
    readable = [p for of_split in photos.values() for p in of_split.values() if p.error is None]
    result.facts["formats"] = _most_common(p.format for p in readable)
    result.facts["modes"] = _most_common(_MODES.get(p.mode, p.mode) for p in readable)
    rotated = sum(p.rotated for p in readable)
    if rotated:
        message = f"{plural(rotated, 'photo')} with an EXIF orientation: stored rotated"
        result.report(
            "note", "turned-photos", message, hint="dlcli rotates them upright; other programs may not"
        )
    blank = [
        source.splits[split].ids[i]
        for split, of_split in photos.items()
        for i, photo in of_split.items()
        if photo.blank
    ]
    if blank:
        message = f"{plural(len(blank), 'photo')} of one colour: nothing is on them"
        result.report(
            "warning",
            "blank",
            message,
            examples=blank,
            hint="nothing can be learned from them: remove them",
        )


def _most_common(words: Iterator[str]) -> str:
    counts = Counter(words).most_common()
    return ", ".join(f"{word} {count:,}" for word, count in counts[:6]) or "none"


def _check_arrays(source: DataSource, result: CheckResult) -> None:
    """Raw pixels (H, W, C), of one size or not."""
    channels, height, width = source.native
    size = f"{width} x {height}" if width else "different sizes"
    result.facts["size"] = f"{size}, {'grey' if channels == 1 else f'{channels} channels'}"
    blank: list[str] = []
    values = {}
    for split, samples in source.splits.items():
        assert isinstance(samples.items, Stacked | Listed)
        images: Sequence[Pixels] = [np.ascontiguousarray(image) for image in samples.items.values]
        digests = (hashlib.blake2b(image.data, digest_size=16).digest() for image in images)
        result.contents[split] = list(digests)
        blank += [samples.ids[i] for i, image in enumerate(images) if image.min() == image.max()]
        values[split] = np.array([image.mean(dtype=np.float32) for image in images])
    result.charts.append(Histogram("brightness", "mean of an image", "mean pixel, 0 to 255", values))
    if blank:
        message = f"{plural(len(blank), 'image')} of one colour: nothing is on them"
        result.report("warning", "blank", message, examples=blank)


CHECKS.register("image")(check_images)
