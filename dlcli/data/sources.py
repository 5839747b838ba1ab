"""Open the data set that ``--data`` names, with its splits: a path, a registered name, or code."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import DataSource, Samples
from dlcli.data.class_names import rename_classes
from dlcli.data.copies import leak_notices
from dlcli.data.folds import with_fold
from dlcli.data.kinds import KINDS, DataKind, DataListing, find_kind
from dlcli.data.notices import Notice
from dlcli.data.sets.download import load_named_set
from dlcli.data.sets.named import DATASETS, find_name
from dlcli.data.splits import hold_out, match_classes
from dlcli.data.user_sets.listing import read_user_set
from dlcli.errors import DlcliError, UsageError, naming, nearest
from dlcli.task import TaskSpec
from dlcli.trust import DATA_GROUP, names_code
from dlcli.wording import listed

_WHAT = "give a folder of class folders, a table (.csv .tsv .jsonl .parquet), texts, or series (.ts)"
# Settings for files of the user's own; registered sets are read in their own way.
_READING = (
    *("target", "label_separators", "text", "drop", "header", "formats", "split_column"),
    "group_column",
    *("time_column", "series_column", "window", "horizon", "time_splits"),
)
# Settings without a flag.
_SET_ONLY = ("label_separators", "text", "drop", "keep", "formats", "time_splits")


def open_source(config: DataConfig, *, seed: int) -> DataSource:
    """Open the data set of ``config`` with train and val, and test where there is one.

    A source without splits is divided in three; of one with train but no val a part of train is held
    out; a given test split is never changed. With ``data.fold`` test is that fold of the samples. Photos
    are listed, not decoded. Raises: DlcliError when the
    data is missing or unfit, UsageError when ``data``, the fractions or the fold make no sense.
    """
    if (config.fold is None) != (config.folds is None) or (config.fold or 0) > (config.folds or 0):
        raise UsageError(
            f"data.fold = {config.fold} of data.folds = {config.folds} is no fold",
            hint="--folds 5 --set data.fold=1 holds out the first of five folds",
        )
    if config.val_fraction + config.folds_test_fraction >= 1:
        raise UsageError("val_fraction + folds_test_fraction leave nothing to train on")
    source = divided(_find(config, other=False), config, seed=seed)
    if source.task == "embedding":
        _need_pairs(source)
    return replace(source, notices=(*source.notices, *_thin_classes(source), *leak_notices(source)))


def divided(source: DataSource, config: DataConfig, *, seed: int) -> DataSource:
    """The source with train, val and perhaps test, as `open_source` divides it. Raises: as that."""
    least = 2 if source.task == "embedding" else 1
    in_time = not source.given and "train" in source.splits  # divided by its kind
    if config.folds is not None and config.fold is not None and not in_time:
        return with_fold(
            source,
            config.folds,
            config.fold,
            seed=seed,
            val_fraction=config.val_fraction,
            test_fraction=config.folds_test_fraction,
        )
    if "all" in source.splits:
        if config.val_fraction + config.test_fraction >= 1:
            raise UsageError(
                f"val_fraction {config.val_fraction} + test_fraction {config.test_fraction} leave "
                "nothing to train on",
                hint="their sum must be below 1",
            )
        fractions = {"val": config.val_fraction, "test": config.test_fraction}
        splits = hold_out(source.splits["all"], fractions, seed=seed, least=least)
    else:
        if "train" not in source.splits:
            raise DlcliError(f"{source.origin} has {' and '.join(source.splits)}, but no train split")
        splits = dict(source.splits)
        if "val" not in splits:
            fractions = {"val": config.val_fraction}
            splits |= hold_out(splits["train"], fractions, seed=seed, least=least)
    ordered: dict[str, Samples] = {
        name: splits[name] for name in ("train", "val", "test") if name in splits
    }
    left_out: tuple[str, ...] = ()
    if in_time and config.folds is not None and config.folds_test_fraction:
        left_out = open_undivided(without_folds(config)).splits["test"].ids
    return replace(source, splits=ordered, left_out=left_out)


def without_folds(config: DataConfig) -> DataConfig:
    """The settings of the same data without folds: what is in none of them is its test split."""
    update: dict[str, Any] = {"folds": None, "fold": None, "folds_test_fraction": 0.0}
    if config.folds_test_fraction:
        update["test_fraction"] = config.folds_test_fraction
    return config.model_copy(update=update)


def open_undivided(config: DataConfig) -> DataSource:
    """Open the data set of ``config`` with its own splits, or one "all". Nothing is held out.

    For splits that are recorded.
    """
    return _find(config, other=False)


def open_other(config: DataConfig, task: TaskSpec) -> DataSource:
    """Open other data for a model of ``task``: its splits as given, or one "all".

    Classes are matched by name; an embedding is evaluated on any classes. Raises: DlcliError when the
    data is missing, is of another kind, or has classes that the model does not know.
    """
    # Groups matter for splitting only: other data need not have them.
    known = {"kind": task.input.kind, "task": task.kind, "group_column": None}
    source = _find(config.model_copy(update=known), other=True)
    if source.kind != task.input.kind:  # a set known by name is what it is
        raise DlcliError(
            f"{source.origin} is {source.kind} data, but the model takes {task.input.kind}",
            hint="give data of the kind that the model was trained on",
        )
    if source.task != task.kind:
        raise DlcliError(
            f"{source.origin} is data for {source.task}, but the model does {task.kind}",
            hint="give data with the target that the model was trained on",
        )
    if task.kind == "embedding":
        return source
    splits: dict[str, Samples] = {}
    unknown: dict[str, None] = {}
    for name, part in source.splits.items():
        splits[name], others = match_classes(part, source, task.class_names)
        unknown |= dict.fromkeys(others)
    if unknown:
        names = list(unknown)
        raise DlcliError(
            f"{source.origin} has samples of classes that the model does not know: {listed(names, 5)}",
            hint="it knows "
            + ", ".join(task.class_names[:12])
            + (" ..." if task.num_classes > 12 else ""),
        )
    return replace(source, splits=splits, class_names=task.class_names)


def _find(config: DataConfig, *, other: bool) -> DataSource:
    """The source with its splits as listed: train, val and test, or one "all".

    Raises: UsageError for an embedding where there are no classes.
    """
    source = rename_classes(_listed(config, other=other), config.class_names)
    if config.task != "embedding":
        return source
    if source.task != "classification":
        raise UsageError(
            f"--task embedding needs samples of one class each; {source.origin} is for {source.task}",
            hint="name a column of classes with --target, or leave --task out",
        )
    options = {key: "embedding" if key == "task" else value for key, value in source.options.items()}
    return replace(source, task="embedding", options=options)


def _listed(config: DataConfig, *, other: bool) -> DataSource:
    """The data set with the task inferred from its target."""
    text = config.data
    if not text:
        raise UsageError("--data is missing", hint="give a folder, a file, or a name such as digits")
    data_dir = None if config.data_dir is None else Path(config.data_dir).expanduser().absolute()
    path = Path(text).expanduser()
    # A registered name means the set, also where a folder of that name exists: what a card records
    # must mean the same in every working directory.
    name = text if DATASETS.find(text) is not None else None
    if name is None and not path.exists():
        name = find_name(text)
        if name is None and names_code(text, DATA_GROUP):
            return _of_user(text, config, other=other)
    if config.args and not other:
        raise UsageError("data.args are for --data file.py:NAME", hint="leave them out")
    if name is not None:
        entry = DATASETS.get(name)
        listing = load_named_set(name, entry, data_dir=data_dir, offline=config.offline)
        if not other:
            _refuse_settings(config, listing, entry.kind, name)
        if path.is_dir():
            notice = Notice(f"{name} means the data set of that name; write ./{name} for the folder")
            listing = replace(listing, notices=(*listing.notices, notice))
        return _source(listing, kind=entry.kind, name=name, origin=name, data_dir=data_dir)
    path = path.absolute()
    known = _recognised(path)
    if known is not None and config.kind not in (None, known[1]):
        known = None  # read as the kind that the user gives
    if known is not None and not other:
        _refuse_settings(config, *known, known[0].name or path.name)
    listing, kind = known or _read(path, text, config, other=other)
    # The name that the user gave: a link keeps its own.
    given = Path(os.path.abspath(path))
    name = listing.name or (given.stem if given.is_file() else given.name) or "data"
    return _source(listing, kind=kind, name=name, origin=str(path), data_dir=None)


def _of_user(text: str, config: DataConfig, *, other: bool) -> DataSource:
    """The data set of the user's own code."""
    if not other:
        for key in (*_READING, "keep"):
            if getattr(config, key) not in (None, (), {}):
                raise UsageError(
                    f"{_flag_of(key)} is for files, and {text} gives samples",
                    hint="leave it out, and let the code give what is wanted",
                )
    listing, kind, full = read_user_set(text, config, other)
    return _source(listing, kind=kind, name=text.rpartition(":")[2], origin=full, data_dir=None)


def _refuse_settings(config: DataConfig, listing: DataListing, kind: str, name: str) -> None:
    """Refuse settings that contradict a registered set: they must not be ignored. Raises: UsageError."""
    own = {"kind": kind, **listing.options, "task": listing.task}
    if config.task == "embedding":  # `_find` checks that there are classes
        own["task"] = "embedding"
    for key in ("kind", "task", *_READING):
        value = getattr(config, key)
        if value not in (None, (), {}) and value != own.get(key):
            flag = _flag_of(key)
            shown = f"{flag} {value}"
            if isinstance(value, bool):
                shown = flag if value else flag.replace("--", "--no-", 1)
            raise UsageError(
                f"{shown}: the data set {name} is {kind} data for {listing.task} and is read in "
                "its own way",
                hint="leave it out, or give the data as a file or folder of your own",
            )


def _flag_of(key: str) -> str:
    return f"data.{key}" if key in _SET_ONLY else "--" + key.replace("_", "-")


def _recognised(path: Path) -> tuple[DataListing, str] | None:
    """A registered set in a folder of another name. Raises: DlcliError when it could be several."""
    if not path.is_dir():
        return None
    names = [name for name, entry in DATASETS.entries() if entry.recognises(path)]
    if not names:
        return None
    if len(names) > 1:
        raise DlcliError(
            f"{path} holds several data sets: {', '.join(names)}",
            hint=f"say which: --data {names[0]} --data-dir {path}",
        )
    entry = DATASETS.get(names[0])
    listing = entry.read(path)
    return None if listing is None else (replace(listing, name=names[0]), entry.kind)


def _read(path: Path, text: str, config: DataConfig, *, other: bool) -> tuple[DataListing, str]:
    """List a path by the kind that recognises it. Raises: DlcliError when none does."""
    if config.kind is not None:
        kind: DataKind[Any] | None = KINDS.get(config.kind)
    else:
        # A folder that no kind recognises: the error of the image reader explains best what is wrong.
        kind = find_kind(path, config) or (KINDS.get("image") if path.is_dir() else None)
    if kind is None or not (path.exists() or kind.recognises(path, config)):
        if not path.exists():
            raise _missing(text, path)
        is_archive = path.suffix.lower() in (".zip", ".gz", ".tgz", ".tar", ".xz", ".zst")
        raise DlcliError(
            f"{text} is no data that dlcli knows",
            hint="unpack it first"
            if is_archive
            else f"a data set of your own code is --data {text}:NAME"
            if path.suffix == ".py"
            else f"--kind {'|'.join(KINDS.names())} says what it is",
        )
    with naming(str(path)):
        return kind.read(path, config, other), kind.name


def _source(
    listing: DataListing, *, kind: str, name: str, origin: str, data_dir: Path | None
) -> DataSource:
    return DataSource(
        name=name,
        origin=origin,
        kind=kind,
        task=listing.task,
        splits=listing.splits,
        given=frozenset(listing.splits) - {"all"} - listing.own_splits,
        fingerprint=listing.fingerprint,
        class_names=listing.class_names,
        target_names=listing.target_names,
        native=listing.native,
        options=listing.options,
        data_dir=None if data_dir is None else str(data_dir),
        notices=listing.notices,
    )


def _missing(text: str, path: Path) -> DlcliError:
    if "/" in text or "\\" in text or text.startswith((".", "~")):
        if path.parent.is_dir():
            names = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
            return DlcliError(
                f"--data {text} does not exist",
                hint=f"in {path.parent}: {nearest(path.name, names)}" if names else _WHAT,
            )
        return DlcliError(f"--data {text} does not exist, nor does {path.parent}", hint=_WHAT)
    return DlcliError(
        f"--data {text!r} is neither a folder or file here nor the name of a data set",
        hint=nearest(text, DATASETS.names()),
    )


def _need_pairs(source: DataSource) -> None:
    """Raises: DlcliError for a split without two samples of a class, or for train of a single class."""
    for split in ("train", "val"):
        counts = np.bincount(source.splits[split].targets)
        if counts.max(initial=0) < 2:
            raise DlcliError(
                f"the {split} split of {source.origin} has no two samples of one class",
                hint="of a class of six or more samples dlcli holds two out; or give splits of your own",
            )
    if (np.bincount(source.splits["train"].targets) > 0).sum() < 2:
        raise DlcliError(f"the train split of {source.origin} has one class: nothing to tell it from")


def _thin_classes(source: DataSource) -> list[Notice]:
    """A notice where dlcli could hold nothing out of a class."""
    if "val" in source.given or source.task != "classification":
        return []
    held = set(np.unique(source.splits["val"].targets).tolist())
    thin = [name for i, name in enumerate(source.class_names) if i not in held]
    if not thin:
        return []
    listed = ", ".join(thin[:5]) + (f" and {len(thin) - 5} more" if len(thin) > 5 else "")
    return [Notice(f"too few samples to hold one out for validation: {listed}", "missing-class")]
