"""Which samples an artifact is measured on when the user names none, and when he names some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.card import Card
from dlcli.config import DataConfig, EvalConfig
from dlcli.data.base import DataSource, Reader
from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.data.notices import messages
from dlcli.data.sources import open_other, open_undivided
from dlcli.data.splits import apply_splits
from dlcli.errors import DlcliError, UsageError
from dlcli.provenance import outdated
from dlcli.runs.folder import RunFolder, run_of
from dlcli.settings import validate


@dataclass(frozen=True)
class EvalData:
    """A split to evaluate on; ``note`` says which it is and what the user should know of it.

    ``train()`` is a reader of what the model learned from, for baselines; None where it is not at hand.
    """

    reader: Reader
    split: str
    note: str
    warnings: tuple[str, ...] = ()
    train: Callable[[], Reader] | None = None


def eval_data(card: Card, artifact: Path, config: EvalConfig) -> EvalData:
    """The split that ``--data`` and ``--split`` mean for an artifact.

    Without ``--data`` it is the data the artifact was trained on, split as its run recorded; "auto"
    is test where there is one, else val. With ``--data`` a folder without splits counts whole, as
    "all"; where it is the artifact's own data in another place, a split may be named all the same.
    Classes are matched by name. Raises: DlcliError when the data is gone or does not fit, UsageError
    for a split that is not there.
    """
    source, warnings, own = _source(card, artifact, config)
    name = _choose(source, config)
    options = ReadOptions(workers=config.workers, on_bad_sample=config.on_bad_sample)

    def read(split: str) -> Reader:
        return kind_of(card.task).reader(source.splits[split], card.task, options)

    old = outdated(artifact, card)
    return EvalData(
        reader=read(name),
        split=name,
        note=_note(source, name, own=own),
        warnings=(*messages(source.notices), *warnings, *([old] if old else [])),
        train=(lambda: read("train")) if own and "train" in source.splits else None,
    )


def recorded_splits(
    card: Card, run: RunFolder | None, found: DataSource, config: DataConfig
) -> tuple[DataSource, list[str]] | None:
    """What ``config`` opens (``found``, as other data) in the run's splits, if it is the run's own data.

    Data is told by its fingerprint, which does not know where it lies: it may have moved. None for other
    data. Raises: DlcliError when the record is damaged.
    """
    if not _is_own(card, found) or run is None or not run.splits.is_file():
        return None
    return apply_splits(run.splits, open_undivided(config))


def _is_own(card: Card, found: DataSource) -> bool:
    return card.data is not None and card.data.fingerprint == found.fingerprint != ""


def _source(card: Card, artifact: Path, config: EvalConfig) -> tuple[DataSource, list[str], bool]:
    """The data, what is to be said of it, and whether it is what the artifact was trained on."""
    if config.data is not None:
        options = {} if card.data is None else card.data.options
        wanted = _config(config.data, config.data_dir, config, options)
        found = open_other(wanted, card.task)
        if config.split not in ("auto", *found.splits):
            moved = recorded_splits(card, run_of(artifact), found, wanted)
            if moved is not None:
                return (*moved, True)
        return found, [], _is_own(card, found)
    if card.data is None:
        raise DlcliError(f"{artifact} does not say what it was trained on", hint="give --data FOLDER")
    wanted = _config(card.data.data, config.data_dir or card.data.data_dir, config, card.data.options)
    run = run_of(artifact)
    if run is not None and run.splits.is_file():
        return (*apply_splits(run.splits, open_undivided(wanted)), True)
    # The artifact has left its run: only splits that the data itself brings are known.
    return open_other(wanted, card.task), [], True


def _config(
    data: str, data_dir: str | None, config: EvalConfig, options: Mapping[str, Any]
) -> DataConfig:
    """How to open data for a model: the same columns mean the same."""
    said = {**options, "data": data, "data_dir": data_dir, "offline": config.offline}
    return validate(DataConfig, said)


def _choose(source: DataSource, config: EvalConfig) -> str:
    if config.split != "auto":
        if config.split not in source.splits:
            raise UsageError(
                f"--split {config.split}: {source.origin} has no such split",
                hint="it has " + ", ".join(source.splits),
            )
        return config.split
    return next(name for name in ("test", "val", "all", "train") if name in source.splits)


def _note(source: DataSource, split: str, *, own: bool) -> str:
    if split == "val" and own:
        return "val chose the best epoch, so its figures flatter the model a little"
    if split == "train" and own:
        return "the model has seen these samples: this is no estimate of how it does on new ones"
    if split == "all" and own:
        return (
            "every sample of the source, those it was trained on among them: this is no estimate of how "
            "it does on new ones"
        )
    origin = "given by the data" if split in source.given else "held out by dlcli"
    return "every sample of the source" if split == "all" else f"the {split} split, {origin}"
