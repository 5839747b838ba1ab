"""Settings of the training data: what it is, how it is split and read."""

from __future__ import annotations

from typing import Any, Literal

from dlcli.config.shared import BadSamples, DataFolder, DecodingThreads, Offline
from dlcli.settings import setting
from dlcli.task import TaskKind


class DataConfig(BadSamples, Offline, DecodingThreads, DataFolder):
    """Data"""

    data: str | None = setting(
        None, "A folder, a file, or a data set's name such as digits.", "--data", "-d"
    )
    kind: str | None = setting(
        None, "Kind of data: image, text, tabular, series or pairs (default: detected).", "--kind"
    )
    task: TaskKind | None = setting(
        None, "What is predicted (default: found by looking at the target).", "--task"
    )
    target: str | None = setting(
        None,
        "Column to predict, or several with commas (default: one named label, or the last).",
        "--target",
    )
    text: str | None = setting(None, "Column of the text (default: the one that looks like text).")
    drop: tuple[str, ...] = setting((), "Columns to leave out.")
    split_column: str | None = setting(
        None, "Column that says train, val or test for each row.", "--split-column"
    )
    group_column: str | None = setting(
        None, "Rows of one value of this column stay in one split.", "--group-column"
    )
    time_column: str | None = setting(
        None, "Column of the time of a long series (default: found).", "--time-column"
    )
    window: int | None = setting(None, "Time steps a forecast sees.", "--window", ge=1)
    horizon: int | None = setting(None, "Time steps it predicts.", "--horizon", ge=1)
    time_splits: tuple[float, ...] | None = setting(
        None, "Train, val and test of a long series, in order: shares below 1, or rows."
    )
    tokenizer: Literal["word", "bpe"] = setting("word", "How texts are cut.", "--tokenizer")
    vocab_size: int = setting(20_000, "Largest number of tokens.", ge=8)
    min_count: int = setting(1, "Words seen less often in training count as unknown.", ge=1)
    lowercase: bool = setting(True, "Whether Cat and cat are one word.")
    max_length: int | None = setting(
        None, "Longest text or series (default: from the training split).", "--max-length", ge=1
    )
    balance: Literal["none", "weights", "sampler", "focal"] = setting(
        "none", "Against classes of unequal size: weighted loss, sampling, focal loss.", "--balance"
    )
    val_fraction: float = setting(0.1, "Share held out where there is no validation split.", gt=0, lt=1)
    test_fraction: float = setting(0.1, "Share held out of a source with no splits at all.", ge=0, lt=1)
    cache: Literal["auto", "ram", "none"] = setting("auto", "Keep decoded pixels in memory.")

    def meaning(self) -> dict[str, Any]:
        """The settings that say what the data means, where they are not the default."""
        names = (
            *("kind", "task", "target", "text", "drop", "split_column", "group_column"),
            *("time_column", "window", "horizon", "time_splits", "val_fraction", "test_fraction"),
        )
        default = type(self)()
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(default, n)}
