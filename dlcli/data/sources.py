"""From what ``--data`` says to a data set with its splits: a folder, or a set known by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import DataSource, Samples
from dlcli.data.download import obtain
from dlcli.data.folder import LAYOUTS, read_folder, read_other_folder
from dlcli.data.named import DATASETS, Found, find_name
from dlcli.data.splits import hold_out
from dlcli.errors import DlcliError, UsageError, nearest


def open_source(config: DataConfig, *, seed: int) -> DataSource:
    """The data set of ``config`` with train and val always, and test where it was given or made.

    A source without splits is divided in three; one with train but no val gives a share of train;
    a given test split is never touched. Photos are listed, not decoded. Raises: DlcliError when the
    data is missing or unfit, UsageError when ``data`` or the fractions make no sense.
    """
    source = _find(config, read_folder)
    if "all" in source.splits:
        if config.val_fraction + config.test_fraction >= 1:
            raise UsageError(
                f"val_fraction {config.val_fraction} + test_fraction {config.test_fraction} leave "
                "nothing to train on",
                hint="their sum must be below 1",
            )
        fractions = {"val": config.val_fraction, "test": config.test_fraction}
        splits = hold_out(source.splits["all"], fractions, seed=seed)
    else:
        if "train" not in source.splits:
            raise DlcliError(f"{source.origin} has {' and '.join(source.splits)}, but no train split")
        splits = dict(source.splits)
        if "val" not in splits:
            splits |= hold_out(splits["train"], {"val": config.val_fraction}, seed=seed)
    ordered: dict[str, Samples] = {
        name: splits[name] for name in ("train", "val", "test") if name in splits
    }
    source = replace(source, splits=ordered)
    return replace(source, warnings=(*source.warnings, *_thin_classes(source)))


def open_other(config: DataConfig, class_names: Sequence[str]) -> DataSource:
    """Other data for a model of ``class_names``: its splits as given, or all of it as "all".

    Targets index ``class_names``, matched by name. Raises: DlcliError when the data is missing, or
    naming the classes that the model does not know.
    """
    source = _find(config, read_other_folder)
    new_index = {name: index for index, name in enumerate(class_names)}
    used = np.unique(np.concatenate([part.targets for part in source.splits.values()]))
    strange = [name for i, name in enumerate(source.class_names) if i in used and name not in new_index]
    if strange:
        raise DlcliError(
            f"{source.origin} has samples of {', '.join(strange[:5])}"
            f"{f' and {len(strange) - 5} more classes' if len(strange) > 5 else ''}, "
            "which the model does not know",
            hint="it knows " + ", ".join(class_names[:12]) + (" ..." if len(class_names) > 12 else ""),
        )
    table = np.array([new_index.get(name, -1) for name in source.class_names], dtype=np.int64)
    splits = {
        name: Samples(part.ids, table[part.targets], part.paths, part.pixels)
        for name, part in source.splits.items()
    }
    return replace(source, splits=splits, class_names=tuple(class_names))


def _find(config: DataConfig, read: Callable[[Path], Found]) -> DataSource:
    """The source with its splits as they are: train, val and test, or one "all"."""
    text = config.data
    if not text:
        raise UsageError(
            "--data is missing", hint="give a folder of class folders, or a name such as digits"
        )
    data_dir = None if config.data_dir is None else Path(config.data_dir).expanduser().absolute()
    path = Path(text).expanduser()
    # A registered name means the set, even beside a folder of that name: what is written into a
    # model's card must mean the same in every folder.
    name = text if DATASETS.find(text) is not None else None
    if name is None and not path.exists():
        name = find_name(text)
    if name is not None:
        found = obtain(name, DATASETS.get(name), data_dir=data_dir, offline=config.offline)
        if path.is_dir():
            said = f"{name} means the data set of that name; write ./{name} for the folder"
            found = replace(found, warnings=(*found.warnings, said))
        return _source(found, name=name, origin=name, data_dir=data_dir)
    if not path.exists():
        raise _missing(text, path)
    if not path.is_dir():
        raise DlcliError(
            f"{text} is a file; --data takes a folder or a data set's name",
            hint="unpack it first"
            if path.suffix.lower() in (".zip", ".gz", ".tgz", ".tar")
            else LAYOUTS,
        )
    path = path.absolute()
    found = _recognised(path) or read(path)
    # What the user called it: a link keeps its own name.
    name = found.kind or Path(os.path.abspath(path)).name or "data"
    return _source(found, name=name, origin=str(path), data_dir=None)


def _recognised(path: Path) -> Found | None:
    """A known set that lies in an unnamed folder. Raises: DlcliError when it could be several."""
    names = [name for name, entry in DATASETS.entries() if entry.recognises(path)]
    if not names:
        return None
    if len(names) > 1:
        raise DlcliError(
            f"{path} holds several data sets: {', '.join(names)}",
            hint=f"say which: --data {names[0]} --data-dir {path}",
        )
    found = DATASETS.get(names[0]).read(path)
    return None if found is None else replace(found, kind=names[0])


def _source(found: Found, *, name: str, origin: str, data_dir: Path | None) -> DataSource:
    return DataSource(
        name=name,
        origin=origin,
        class_names=found.class_names,
        splits=found.splits,
        given=frozenset(found.splits) - {"all"},
        native=found.native,
        fingerprint=found.fingerprint,
        data_dir=None if data_dir is None else str(data_dir),
        warnings=found.warnings,
    )


def _missing(text: str, path: Path) -> DlcliError:
    if "/" in text or "\\" in text or text.startswith((".", "~")):
        if path.parent.is_dir():
            names = [
                entry.name
                for entry in path.parent.iterdir()
                if entry.is_dir() and not entry.name.startswith(".")
            ]
            return DlcliError(
                f"--data {text} does not exist",
                hint=f"in {path.parent}: {nearest(path.name, names)}" if names else LAYOUTS,
            )
        return DlcliError(f"--data {text} does not exist, nor does {path.parent}", hint=LAYOUTS)
    return DlcliError(
        f"--data {text!r} is neither a folder here nor the name of a data set",
        hint=nearest(text, DATASETS.names()),
    )


def _thin_classes(source: DataSource) -> list[str]:
    """A sentence where dlcli could hold nothing out of a class."""
    if "val" in source.given:
        return []
    held = set(np.unique(source.splits["val"].targets).tolist())
    thin = [name for i, name in enumerate(source.class_names) if i not in held]
    if not thin:
        return []
    listed = ", ".join(thin[:5]) + (f" and {len(thin) - 5} more" if len(thin) > 5 else "")
    return [f"too few samples to hold one out for validation: {listed}"]
