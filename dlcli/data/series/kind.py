"""Whole series with a class or number each, and one long series to forecast.

Legend: N series, T_i steps of the i-th, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource, Listed, Reader, Samples, Stacked, fingerprint
from dlcli.data.kinds import KINDS, DataKind, DataListing, ModelNeeds, ReadOptions
from dlcli.data.notices import Notice, left_out
from dlcli.data.previews import series_preview
from dlcli.data.scales import make_task
from dlcli.data.series.description import describe
from dlcli.data.series.files import expand_patterns, find_files, read_files, read_input
from dlcli.data.series.forecast import fit_forecast, is_long, read_long
from dlcli.data.series.forecast_inputs import forecast_inputs
from dlcli.data.series.occlusion import occlude_series
from dlcli.data.series.reader import SeriesReader, channel_statistics, chunks, truncation_notice
from dlcli.data.series.synthetic import REFERENCE_WORDS, noise, reference_input
from dlcli.data.series.ts_files import SeriesFile, Values
from dlcli.data.series.windows import ForecastReader
from dlcli.data.tables.frames import is_table
from dlcli.data.tables.split_names import SPLIT_NAMES
from dlcli.data.tables.targets import InferredTarget, encode, infer_target
from dlcli.errors import DlcliError, UsageError
from dlcli.task import SeriesInput, TaskSpec

_LAYOUTS = (
    "a .ts file, rows of numbers with the class in front (.tsv .txt), X and y in a .npz, "
    "or a table with a time column"
)


class UnequalLengths(Listed):
    """Series of a format that states unequal lengths, even where the training split has one length."""


def recognises(path: Path, config: DataConfig) -> bool:
    """Return whether a path has files of whole series or a table over time.

    Also for several data sets; the error of `read` then names them.
    """
    if config.task == "seq2seq":
        return False
    if is_long(path, config):
        return True
    if config.task == "forecast":
        return False
    try:
        return find_files(path) is not None
    except DlcliError:
        return True


def read(path: Path, config: DataConfig, other: bool) -> DataListing:
    """Read the whole series of files, or the windows of a long one.

    Raises: DlcliError when they cannot be read, have no labels or only one class, or a split has other
    channels or a class that is not in train; UsageError when the settings do not apply to series.
    """
    files = None if config.task == "forecast" or is_long(path, config) else find_files(path)
    if files is None:
        if path.is_file() and not is_table(path):
            raise DlcliError(f"{path} is not a known series file", hint=f"give {_LAYOUTS}")
        return read_long(path, config, other)
    columns = ("split_column", "group_column", "time_column", "series_column", "target")
    for name in (*columns, "window", "horizon"):
        if getattr(config, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is for tables, and {path} holds whole series",
                hint="remove it",
            )
    parts = read_files(files)
    _check_channels(parts, files)
    target = _infer_target(parts, config, path, other=other)
    notices = [*(notice for part in parts.values() for notice in part.notices), *target.notices]
    splits: dict[str, Samples] = {}
    for split, part in parts.items():
        if part.labels is None:
            message = f"the series for {split} have no labels, so there is no {split} split"
            notices.append(Notice(message))
            continue
        where = str(path) if split == "all" else f"{path} ({split})"
        targets, rows = encode(part.labels, target, where=where)
        indices = np.flatnonzero(rows)
        if len(indices) < len(rows):
            notices.append(
                left_out(f"{where}: {len(rows) - len(indices)} series without a label left out")
            )
        if not len(indices):
            continue
        prefix = "" if split == "all" else f"{split}/"
        splits[split] = Samples(
            ids=tuple(f"{prefix}{row}" for row in indices.tolist()),
            targets=targets,
            items=Listed(tuple(part.series[i] for i in indices.tolist())),
        )
        notices += _missing_notices(splits[split], where)
    if not splits:
        raise DlcliError(f"{path}: no series has a label")
    splits = _stack_equal(splits, unequal=any(part.unequal for part in parts.values()))
    return DataListing(
        splits=splits,
        fingerprint=_fingerprint(splits, target),
        task=target.task,
        class_names=target.class_names,
        target_names=target.target_names,
        options=target.options,
        notices=tuple(notices),
        name=_data_name(path),
    )


def fit(source: DataSource, config: TrainConfig, needs: ModelNeeds) -> tuple[TaskSpec, list[Notice]]:
    """Fit mean and std of the channels and the length on the training split."""
    if source.task == "forecast":
        return fit_forecast(source, config.data)
    items = source.splits["train"].items
    assert isinstance(items, Stacked | Listed)
    channels = int(items.values[0].shape[1])
    lengths = np.array([len(values) for values in items.values])
    mean, std, constant = channel_statistics(chunks(items), channels)
    length = max(1, int(lengths.max()))
    limit = config.data.max_length
    truncates = limit is not None and limit < length
    spec = SeriesInput(
        channels=tuple(str(c) for c in range(channels)),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        length=min(length, limit) if limit is not None else length,
        # With truncation lengths vary, so that longer series are accepted.
        varies=isinstance(items, UnequalLengths) or int(lengths.min()) < length or truncates,
    )
    notices = []
    if constant:
        shown = ", ".join(spec.channels[c] for c in constant[:8])
        message = f"constant in the training split, so not scaled: channel {shown}"
        notices.append(Notice(message))
    if spec.varies:
        for split, samples in source.splits.items():
            longer = sum(len(values) > spec.length for values in _values(samples))
            if longer:
                notices.append(truncation_notice(longer, len(samples), spec.length).prefixed(split))
    return make_task(source, spec, config.model), notices


def make_reader(samples: Samples, task: TaskSpec, options: ReadOptions) -> Reader:
    """Return the reader of scaled series, or of windows of a long one."""
    assert isinstance(task.input, SeriesInput)
    if task.kind == "forecast":
        return ForecastReader(samples, task)
    return SeriesReader(samples, task.input, on_bad_sample=options.on_bad_sample)


def series_inputs(arguments: Sequence[str], task: TaskSpec) -> Samples:
    """Return the series of files, with ids "file.ts:row"; for a forecast the last window of each table.

    Raises: DlcliError when a file is missing, cannot be read or has other channels than the model.
    """
    assert isinstance(task.input, SeriesInput)
    names = list(expand_patterns(arguments))
    if task.kind == "forecast":
        return forecast_inputs(names, task)
    spec, ids, series = task.input, [], []
    for name in names:
        part = read_input(Path(name), spec)
        if part.channels != len(spec.channels):
            raise DlcliError(
                f"{name} has {part.channels} channels, the input of the model has {len(spec.channels)}",
                hint="give series with the channels of the training data",
            )
        ids += [f"{name}:{row}" for row in range(len(part.series))]
        series += list(part.series)
    return Samples(ids=tuple(ids), targets=np.zeros(0, dtype=np.int64), items=Listed(tuple(series)))


def _infer_target(
    parts: Mapping[str, SeriesFile], config: DataConfig, path: Path, *, other: bool
) -> InferredTarget:
    """Infer the task from the training labels, or with ``other`` from those of every split."""
    import polars as pl

    base = parts.get("train", parts.get("all", next(iter(parts.values()))))
    labelled = [part for part in parts.values() if part.labels is not None] if other else [base]
    if not labelled or labelled[0].labels is None:
        raise DlcliError(
            f"{path}: the series have no labels",
            hint="a .ts file needs @classLabel true or @targetLabel true; an array X needs an array y",
        )
    first = labelled[0]
    try:
        frame = pl.concat(
            [pl.DataFrame(dict(part.labels or {})) for part in labelled], how="vertical_relaxed"
        )
    except pl.exceptions.PolarsError as exc:
        raise DlcliError(f"{path}: the splits have labels of different types") from exc
    columns = {column.name: column for column in frame.iter_columns()}
    task = config.task or (first.task if len(columns) == 1 else None)
    try:
        return infer_target(
            columns, task, min_values=1 if other else 2, separators=config.label_separators
        )
    except DlcliError as exc:
        if isinstance(exc, UsageError):
            raise
        # A file of whole series has no columns that --target could name.
        hint = None if exc.hint is None or "--target" in exc.hint else exc.hint
        raise DlcliError(f"{path}: {exc.message}", hint=hint) from exc


def _check_channels(parts: Mapping[str, SeriesFile], files: Mapping[str, Path]) -> None:
    counts = {split: part.channels for split, part in parts.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise DlcliError(
            f"{next(iter(files.values()))}: the splits have different numbers of channels: {shown}",
            hint="every series must have the same channels in the same order",
        )


def _stack_equal(splits: dict[str, Samples], *, unequal: bool) -> dict[str, Samples]:
    """Stack the series of each split into one array where all splits have one length."""
    shapes = {values.shape for samples in splits.values() for values in _values(samples)}
    dtypes = {str(values.dtype) for samples in splits.values() for values in _values(samples)}
    out = {}
    for split, samples in splits.items():
        values = _values(samples)
        if not unequal and len(shapes) == 1 and len(dtypes) == 1:
            out[split] = replace(samples, items=Stacked(np.stack(values)))
        else:
            out[split] = replace(samples, items=(UnequalLengths if unequal else Listed)(tuple(values)))
    return out


def _values(samples: Samples) -> Sequence[Values]:
    items = samples.items
    if isinstance(items, Stacked):
        return list(items.values)
    assert isinstance(items, Listed)
    return items.values


def _missing_notices(samples: Samples, where: str) -> list[Notice]:
    """Return a notice that counts missing values, or none."""
    missing = [int((~np.isfinite(values)).sum()) for values in _values(samples)]
    if not any(missing):
        return []
    message = (
        f"{where}: {sum(missing):,} values are missing in {np.count_nonzero(missing):,} of "
        f"{len(missing):,} series; they are interpolated linearly in time"
    )
    return [Notice(message, "missing-values", "warning")]


def _fingerprint(splits: Mapping[str, Samples], target: InferredTarget) -> str:
    parts = [repr((target.task, target.class_names)).encode()]
    for split, samples in splits.items():
        parts.append("\0".join([split, *samples.ids]).encode())
        parts.append(np.ascontiguousarray(samples.targets).tobytes())
        parts += [np.ascontiguousarray(values).tobytes() for values in _values(samples)]
    return fingerprint(parts)


def _data_name(path: Path) -> str | None:
    """Return GunPoint for GunPoint_TRAIN.ts, and the folder's name for an X.npy."""
    if not path.is_file():
        return None
    base, _, word = path.stem.rpartition("_")
    stem = base if base and word.lower() in SPLIT_NAMES else path.stem
    return path.parent.name or None if stem in ("X", "x") else stem


KINDS.register("series")(
    DataKind(
        name="series",
        unit=lambda task: "windows" if task.kind == "forecast" else "series",
        recognises=recognises,
        read=read,
        fit=fit,
        reader=make_reader,
        inputs=series_inputs,
        reference_input=reference_input,
        reference_words=REFERENCE_WORDS,
        noise=noise,
        describe=describe,
        preview=lambda samples, inputs, spec: series_preview(spec.channels, inputs[0][0]),
        occlude=occlude_series,
        size_words="{} (steps, channels)",
        own_settings=(
            *("data.max_length", "data.time_column", "data.series_column", "data.series_scale"),
            *("data.window", "data.horizon", "data.time_splits", "data.header", "data.formats"),
        ),
        order=40,
    )
)
