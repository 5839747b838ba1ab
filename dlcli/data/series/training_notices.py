"""What the start of a training run says about a forecast's data: assumed settings, and the splits."""

from __future__ import annotations

from dataclasses import dataclass

from dlcli.config import DataConfig
from dlcli.data.notices import Notice
from dlcli.data.series.default_window import DEFAULT_HORIZON, DEFAULT_WINDOW
from dlcli.data.series.long_tables import LongTables
from dlcli.data.series.time_splits import SPLITS, TimeSplits
from dlcli.wording import quoted_list


@dataclass(frozen=True)
class TrainingFacts:
    """What was read, and the window and horizon in steps; ``defaults`` names those nobody set."""

    read: LongTables
    splits: TimeSplits
    window: int
    horizon: int
    defaults: tuple[str, ...]
    target_names: tuple[str, ...]
    by_files: bool


def training_notices(facts: TrainingFacts, config: DataConfig) -> list[Notice]:
    """Return notices for the start of a training run."""
    notices = _about_window(facts)
    read = facts.read
    settings = ("kind", "task", "time_column", "series_column", "window", "horizon")
    if all(getattr(config, name) is None for name in settings):
        what = f"several series over {read.time!r}" if read.series else f"a series over {read.time!r}"
        message = f"read as {what}; --kind tabular reads each row as a sample"
        notices.append(Notice(message))
    if read.series:
        message = f"{len(read.tables):,} series, told apart by {quoted_list(read.series)}"
        detected = "; --series-column names other columns" if config.series_column is None else ""
        notices.append(Notice(f"{message}; windows stay inside one{detected}"))
    if config.target is None and len(facts.target_names) > 1:
        count = len(facts.target_names)
        notices.append(Notice(f"all {count} columns are predicted; --target selects some"))
    return [*notices, *_about_splits(facts)]


def _about_window(facts: TrainingFacts) -> list[Notice]:
    if not facts.defaults:
        return []
    sizes = {"window": facts.window, "horizon": facts.horizon}
    usual = {"window": DEFAULT_WINDOW, "horizon": DEFAULT_HORIZON}
    shown = " and ".join(f"{name} {sizes[name]}" for name in facts.defaults)
    flags = " and ".join(f"--{name}" for name in facts.defaults)
    shortened = [str(usual[name]) for name in facts.defaults if sizes[name] < usual[name]]
    how = f"fitted to the rows, else {' and '.join(shortened)}" if shortened else "default"
    return [Notice(f"{shown} steps ({how}); {flags} change that")]


def _about_splits(facts: TrainingFacts) -> list[Notice]:
    tables, bounds = facts.read.tables, facts.splits.bounds
    parts = []
    for number, split in enumerate(SPLITS):
        rows, last = 0, None
        for table, ends in zip(tables, bounds, strict=True):
            first, end = (0, *ends)[number], ends[number]
            rows += end - first
            if end > first and (last is None or table.clock[end - 1] > last[0]):
                last = (table.clock[end - 1], table.times[end - 1])
        if last is not None:
            parts.append(f"{split} to {last[1]} ({rows:,} rows)")
    how = "by file" if facts.by_files else "by time"
    windows = "targets of a window lie in its split, its inputs may begin earlier"
    message = f"split {how}: {', '.join(parts)}; {windows}"
    notices = [Notice(message)]
    unused = sum(len(table.values) - ends[2] for table, ends in zip(tables, bounds, strict=True))
    if unused:
        notices.append(Notice(f"{unused:,} rows after the test split are not used"))
    return notices
