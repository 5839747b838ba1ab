"""Tables as the tabular kind reads and fits them."""

from __future__ import annotations

from pathlib import Path

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.kinds import KINDS, DataListing, ModelNeeds
from dlcli.data.notices import messages
from dlcli.task import TaskSpec

TABULAR = KINDS.get("tabular")


def save(path: Path, rows: list[str]) -> Path:
    """Write the lines of a table."""
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def read(path: Path, *, other: bool = False, **settings: object) -> DataListing:
    return TABULAR.read(path, DataConfig(data=str(path), **settings), other)


def fit(listing: DataListing) -> tuple[TaskSpec, list[str]]:
    splits = {"train": listing.splits.get("all", listing.splits.get("train"))}
    source = DataSource(
        name="t",
        origin="t",
        kind="tabular",
        task=listing.task,
        splits=splits,
        given=frozenset(),
        fingerprint="",
        class_names=listing.class_names,
        target_names=listing.target_names,
    )
    task, notices = TABULAR.fit(source, TrainConfig(), ModelNeeds())
    return task, messages(notices)
