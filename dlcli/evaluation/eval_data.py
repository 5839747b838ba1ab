"""The data to evaluate an artifact on: that of its run, or given by the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.card import Card
from dlcli.config import DataConfig, EvalConfig, FitConfig
from dlcli.data.base import DataSource, Reader
from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.data.notices import messages
from dlcli.data.sources import divided, open_other, open_undivided, without_folds
from dlcli.data.splits import apply_splits, left_out_samples, match_classes, take_from
from dlcli.errors import DlcliError, UsageError, naming
from dlcli.provenance import outdated
from dlcli.runs.folder import RunFolder, run_of
from dlcli.runs.saved import read_run
from dlcli.settings import validate


@dataclass(frozen=True)
class EvalData:
    """A split to evaluate on; ``note`` describes it.

    ``own``: whether it is the data that the model was trained on. ``train()`` is a reader of the
    training split, for baselines; None where it is not available.
    """

    reader: Reader
    split: str
    note: str
    warnings: tuple[str, ...] = ()
    train: Callable[[], Reader] | None = None
    own: bool = False


def eval_data(card: Card, artifact: Path, config: EvalConfig, *, divide: bool = False) -> EvalData:
    """Open the split that ``--data`` and ``--split`` name for an artifact.

    Without ``--data`` it is the data the artifact was trained on, split as its run recorded; "auto"
    is test where there is one, else val. With ``--data`` a folder without splits is used whole, as
    "all"; a split may be named where it is the artifact's own data in another place, and with
    ``divide`` of any data, which is then divided as for training. Classes are matched by name. Raises:
    DlcliError when the data is missing or does not fit, UsageError for a split that does not exist.
    """
    source, warnings, own = _source(card, artifact, config, divide=divide)
    name = _choose(source, config)
    options = ReadOptions(workers=config.workers, on_bad_sample=config.on_bad_sample)

    def read(split: str) -> Reader:
        with naming(source.origin):
            return kind_of(card.task).reader(source.splits[split], card.task, options)

    old = outdated(artifact, card)
    # How the model's own data is read was said when it was trained.
    notices = [n for n in source.notices if config.data is not None or not n.is_decision]
    return EvalData(
        reader=read(name),
        split=name,
        note=_note(source, name, own=own),
        warnings=(*messages(notices), *warnings, *([old] if old else [])),
        train=(lambda: read("train")) if own and "train" in source.splits else None,
        own=own,
    )


def left_out_data(run: RunFolder, card: Card, config: EvalConfig) -> EvalData:
    """The samples that no fold has seen, of the data of ``run``, one of the folds.

    ``train()`` is a reader of all others, each of which most of the folds were trained on. Raises:
    DlcliError where they are missing.
    """
    source = open_undivided(without_folds(read_run(run).config.data))
    samples = left_out_samples(run.splits, source)
    out, parts = set(samples.ids), list(source.splits.values())
    ids = [id_ for part in parts for id_ in part.ids]
    others = take_from(parts, np.flatnonzero([id_ not in out for id_ in ids]))
    others, _ = match_classes(others, source, card.task.class_names)
    options = ReadOptions(workers=config.workers, on_bad_sample=config.on_bad_sample)
    kind = kind_of(card.task)
    return EvalData(
        reader=kind.reader(samples, card.task, options),
        split="test",
        note="the test split, which is in no fold",
        train=lambda: kind.reader(others, card.task, options),
    )


def recorded_splits(
    card: Card, run: RunFolder | None, source: DataSource, config: DataConfig
) -> tuple[DataSource, list[str]] | None:
    """The data of ``config`` in the splits of the run, or None where it is not the data of the run.

    ``source`` is the same data, opened as other data. Data is identified by its fingerprint, which does
    not depend on the path. Raises: DlcliError when the record is damaged.
    """
    if not _is_own(card, source) or run is None or not run.splits.is_file():
        return None
    return apply_splits(run.splits, open_undivided(config))


def _is_own(card: Card, source: DataSource) -> bool:
    return card.data is not None and card.data.fingerprint == source.fingerprint != ""


def _source(
    card: Card, artifact: Path, config: EvalConfig, *, divide: bool
) -> tuple[DataSource, list[str], bool]:
    """The data, warnings about it, and whether the artifact was trained on it."""
    if config.data is not None:
        opened = _config(config.data, config.data_dir, config, _options(card, config.data))
        source = open_other(opened, card.task)
        if config.split not in ("auto", *source.splits):
            recorded = recorded_splits(card, run_of(artifact), source, opened)
            if recorded is not None:
                return (*recorded, True)
            if divide and "all" in source.splits:
                source = divided(source, opened, seed=FitConfig().seed)
                sizes = ", ".join(f"{len(part)} {name}" for name, part in source.splits.items())
                note = f"{source.origin} has no splits: divided as `dlcli train` divides it, {sizes}"
                return source, [note], False
        return source, [], _is_own(card, source)
    if card.data is None:
        raise DlcliError(f"{artifact} does not say what it was trained on", hint="give --data FOLDER")
    opened = _config(card.data.data, config.data_dir or card.data.data_dir, config, _options(card))
    run = run_of(artifact)
    if run is not None and run.splits.is_file():
        return (*apply_splits(run.splits, open_undivided(opened)), True)
    # The artifact is outside its run folder: only the splits that the data itself has are known.
    return open_other(opened, card.task), [], True


def _options(card: Card, data: str | None = None) -> Mapping[str, Any]:
    """The options that the training data was read with, for itself or for other ``data``.

    Arguments of code are for the same class or function, wherever its file is now. Cards of texts
    before 0.2 leave the task out; without it other cells could suggest another task.
    """
    options = {} if card.data is None else card.data.options
    if card.data is not None and data is not None and Path(data).name != Path(card.data.data).name:
        options = {key: value for key, value in options.items() if key != "args"}
    return {"task": card.task.kind, **options} if card.task.input.kind == "text" else options


def _config(
    data: str, data_dir: str | None, config: EvalConfig, options: Mapping[str, Any]
) -> DataConfig:
    """The settings to open data for a model, with the options of its training data."""
    values = {**options, "data": data, "data_dir": data_dir, "offline": config.offline}
    return validate(DataConfig, {**values, "on_bad_sample": config.on_bad_sample})


def _choose(source: DataSource, config: EvalConfig) -> str:
    if config.split != "auto":
        if config.split not in source.splits:
            raise UsageError(
                f"--split {config.split}: {source.origin} has no such split",
                hint="splits: " + ", ".join(source.splits),
            )
        return config.split
    return next(name for name in ("test", "val", "all", "train") if name in source.splits)


def _note(source: DataSource, split: str, *, own: bool) -> str:
    if split == "val" and own:
        return "val chose the best epoch, so its metrics are slightly optimistic"
    if split == "train" and own:
        return "the model was trained on these samples: no estimate of its performance on new ones"
    if split == "all" and own:
        return (
            "every sample of the source, training samples included: no estimate of the performance on "
            "new ones"
        )
    origin = "given by the data" if split in source.given else "held out by dlcli"
    return "every sample of the source" if split == "all" else f"the {split} split, {origin}"
