"""The kind "tabular": a table with a target column, where no other kind recognises it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import ArrayReader, DataSource, Indices, Inputs, Samples
from dlcli.data.kinds import KINDS, DataKind, ModelNeeds, ReadOptions
from dlcli.data.notices import Notice
from dlcli.data.previews import Preview, row_preview
from dlcli.data.scales import make_task
from dlcli.data.tables.columns import column_names, encode_columns, fit_columns, with_bins
from dlcli.data.tables.description import describe
from dlcli.data.tables.frames import TABLE_SUFFIXES, is_table, need_column
from dlcli.data.tables.inputs import table_inputs
from dlcli.data.tables.listing import read
from dlcli.data.tables.occlusion import occlude_row
from dlcli.data.tables.relations import target_relations
from dlcli.data.tables.rows import TableRows
from dlcli.data.tables.split_names import split_files
from dlcli.data.tables.synthetic import REFERENCE_WORDS, noise, reference_input
from dlcli.errors import DlcliError
from dlcli.task import TabularInput, TaskSpec


class TableReader(ArrayReader):
    """A split of a table, encoded; ``notices`` count cells unlike those of training."""

    def __init__(self, samples: Samples, spec: TabularInput) -> None:
        assert isinstance(samples.items, TableRows)
        known = set(samples.items.frame.columns)
        for name in column_names(spec):
            if name not in known:
                need_column(samples.items.frame, name, what="the model reads it", path="the data")
        columns, notices = encode_columns(samples.items.frame, spec)
        super().__init__(samples, (columns,))
        self.notices = [*samples.items.notices, *notices]


def recognises(path: Path, config: DataConfig) -> bool:
    """Return whether a path has tables.

    Also for several data sets; the error of `read` then names them.
    """
    if path.is_file():
        return is_table(path)
    try:
        return split_files(path, TABLE_SUFFIXES) is not None
    except DlcliError:
        return True


def fit(source: DataSource, config: TrainConfig, needs: ModelNeeds) -> tuple[TaskSpec, list[Notice]]:
    """Fit the column encoders on the training rows. Numeric targets are standardized, without a log."""
    train = source.splits["train"]
    assert isinstance(train.items, TableRows)
    rows = train.items
    spec, notices = fit_columns(
        rows.frame, _row_numbers(train.ids), formats=rows.formats, keep=config.data.keep
    )
    if needs.bins:
        spec = with_bins(rows.frame, spec, needs.bins)
    if source.task == "regression":
        notices += target_relations(rows.frame, train.targets, source.target_names)
    return make_task(source, spec, config.model), notices


def reader(samples: Samples, task: TaskSpec, options: ReadOptions) -> TableReader:
    """Return the reader of rows as float32 (N, F + K)."""
    assert isinstance(task.input, TabularInput)
    return TableReader(samples, task.input)


def preview(samples: Samples, inputs: Inputs, spec: TabularInput) -> Preview:
    """Return the cells of a row, of the columns that the model reads."""
    assert isinstance(samples.items, TableRows)
    frame = samples.items.frame
    names = [name for name in column_names(spec) if name in frame.columns]
    return row_preview(names, frame.select(names).row(0))


def _row_numbers(ids: Sequence[str]) -> Indices:
    """Return the row numbers in the file, parsed from the ids, else counted from 0."""
    matches = [re.search(r"(?:^|/)(\d+)$", id_) for id_ in ids]
    numbers = [int(match[1]) for match in matches if match]
    return np.array(numbers if len(numbers) == len(ids) else range(len(ids)), dtype=np.int64)


KINDS.register("tabular")(
    DataKind(
        name="tabular",
        unit=lambda task: "rows",
        recognises=recognises,
        read=read,
        fit=fit,
        reader=reader,
        inputs=table_inputs,
        reference_input=reference_input,
        reference_words=REFERENCE_WORDS,
        noise=noise,
        describe=describe,
        preview=preview,
        occlude=occlude_row,
        size_words="{} features",
        own_settings=("data.keep", "data.formats", "data.header", "data.time_column"),
        order=90,
    )
)
