"""Check that each class of the training split has an image that can be read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dlcli.data.base import DataSource, Listed
from dlcli.data.class_folders import some
from dlcli.data.notices import Notice
from dlcli.errors import BadSample, DlcliError
from dlcli.pixels.decode import decode
from dlcli.task import ImageInput

_THREADS = 4


def check_readable_classes(source: DataSource, spec: ImageInput) -> list[Notice]:
    """Warn of classes of val without a readable image; of each class images are read up to the first.

    Raises: DlcliError for such classes of train: a model would never see them.
    """
    notices = []
    for split in ("train", "val"):
        unreadable = _unreadable_classes(source, split, spec)
        if not unreadable:
            continue
        names = some([source.class_names[label] for label in unreadable])
        file, reason = next(iter(unreadable.values()))
        message = f"no image of {names} in {split} can be read; {file}: {reason}"
        if split == "train":
            raise DlcliError(message, hint="repair the files, or remove the class")
        notices.append(Notice(message, "unreadable-class", "warning"))
    return notices


def _unreadable_classes(source: DataSource, split: str, spec: ImageInput) -> dict[int, tuple[Path, str]]:
    """The classes of a split none of whose images can be read: a file of each, and why."""
    samples = source.splits.get(split)
    if samples is None or source.task not in ("classification", "embedding"):
        return {}
    if not isinstance(samples.items, Listed) or not samples.items.are_files:
        return {}
    paths: dict[int, list[Path]] = {}
    for label, path in zip(samples.targets.tolist(), samples.items.values, strict=True):
        paths.setdefault(label, []).append(path)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="dlcli-decode") as pool:
        failures = pool.map(lambda files: _failure(files, spec), paths.values())
        unreadable = {label: failure for label, failure in zip(paths, failures, strict=True) if failure}
    return dict(sorted(unreadable.items()))


def _failure(paths: list[Path], spec: ImageInput) -> tuple[Path, str] | None:
    """The first file and why it cannot be read, if none of the files can; else None."""
    first: tuple[Path, str] | None = None
    for path in paths:
        try:
            decode(path, spec)
        except BadSample as exc:
            first = first or (path, exc.message)
        else:
            return None
    return first
