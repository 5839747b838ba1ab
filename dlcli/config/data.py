"""Settings of the training data: source, columns, splits, preprocessing."""

from typing import Any, Literal

from dlcli.config.shared import BadSamples, DataFolder, DecodingThreads, Offline
from dlcli.schema import TaskKind
from dlcli.settings import PathText, setting


class DataConfig(BadSamples, Offline, DecodingThreads, DataFolder):
    """Data"""

    data: PathText = setting(
        None,
        "Folder, file or name of a data set (digits, mnist, ...), or file.py:NAME of your own.",
        "--data",
        "-d",
        on_resume="forced",
    )
    args: dict[str, Any] = setting({}, "Arguments of the class or function of --data file.py:NAME.")
    kind: str | None = setting(
        None,
        "Kind of data: image, text, tabular, series or pairs (default: detected).",
        "--kind",
        advanced=True,
    )
    task: TaskKind | None = setting(None, "Task (default: from the target).", "--task", advanced=True)
    target: str | None = setting(
        None,
        "Target column, or several, comma-separated (default: the only labelled column, or the last).",
        "--target",
    )
    label_separators: str | None = setting(
        None, "Characters between the labels of a cell (default: | and ;, or a comma, by the cells)."
    )
    class_names: str | dict[str, str] | None = setting(
        None,
        "File of class names for people, kept in the card: old and new names (JSON, YAML or lines), or "
        "a list in class order.",
        "--class-names",
        advanced=True,
    )
    text: str | None = setting(
        None, "Text column, or the two of pairs: premise,hypothesis (default: detected)."
    )
    drop: tuple[str, ...] = setting((), "Columns to ignore.")
    keep: tuple[str, ...] = setting((), "Columns to use although they look like row numbers or names.")
    header: bool | None = setting(
        None,
        "Whether the first line of a CSV names the columns (default: detected).",
        "--header/--no-header",
        advanced=True,
    )
    formats: dict[str, str] = setting(
        {}, "How a column's numbers or times are written: '1.234,5', '%d/%m/%Y' (default: detected)."
    )
    split_column: str | None = setting(
        None, "Column that assigns rows to train, val and test.", "--split-column", advanced=True
    )
    group_column: str | None = setting(
        None, "Group column: rows of one group stay in one split.", "--group-column", advanced=True
    )
    time_column: str | None = setting(
        None,
        "Time column of a long series (default: detected), or of a table whose splits and folds are in "
        "time.",
        "--time-column",
        advanced=True,
    )
    series_column: str | None = setting(
        None,
        "Column of a long table that names the series of each row, or several, comma-separated "
        "(default: detected where times repeat).",
        "--series-column",
        advanced=True,
    )
    series_scale: Literal["each", "together"] = setting(
        "each",
        "Scale of several series: each by its own mean and standard deviation, or all together.",
    )
    window: int | None = setting(
        None, "Input length of a forecast, in time steps.", "--window", ge=1, advanced=True
    )
    horizon: int | None = setting(
        None, "Forecast horizon, in time steps.", "--horizon", ge=1, advanced=True
    )
    time_splits: tuple[float, ...] | None = setting(
        None,
        "Train, val and test of a long series, in order of time: fractions below 1, or numbers of rows.",
    )
    folds: int | None = setting(
        None,
        "Cross-validation: train as many models, each with another part of the samples held out.",
        "--folds",
        ge=2,
        le=100,
        advanced=True,
    )
    fold: int | None = setting(None, "The one of data.folds to hold out, from 1 (default: each).", ge=1)
    folds_test_fraction: float = setting(
        0.0,
        "Test fraction that is in no fold, of data without a test split (of tune --folds: "
        "data.test_fraction).",
        ge=0,
        lt=1,
    )
    tokenizer: Literal["word", "bpe"] = setting("word", "Tokenizer.", "--tokenizer", advanced=True)
    vocab_size: int = setting(20_000, "Maximum vocabulary size.", ge=8)
    min_count: int = setting(1, "Minimum frequency of a token; rarer ones are unknown.", ge=1)
    lowercase: bool = setting(True, "Convert texts to lower case.")
    max_length: int | None = setting(
        None,
        "Maximum length of texts and series; longer ones are truncated (default: from the "
        "training split).",
        "--max-length",
        ge=1,
        advanced=True,
    )
    balance: Literal["none", "weights", "sampler", "focal"] = setting(
        "none",
        "Class imbalance: class weights in the loss, weighted sampling, or focal loss.",
        "--balance",
        advanced=True,
        on_resume="forced",
    )
    val_fraction: float = setting(
        0.1, "Validation fraction, of data without a validation split.", gt=0, lt=1
    )
    test_fraction: float = setting(0.1, "Test fraction, of data without any splits.", ge=0, lt=1)
    cache: Literal["auto", "ram", "disk", "none"] = setting(
        "auto",
        "Cache of decoded images: in memory, on disk, or none. auto: in memory where the split fits; "
        "photos also on disk, for later runs.",
        "--cache",
        advanced=True,
        on_resume="allowed",
    )
    cache_dir: PathText = setting(
        None,
        "Folder of the disk cache (default: in the user's cache folder).",
        "--cache-dir",
        advanced=True,
        on_resume="allowed",
        applies_to={"cache": ("auto", "disk")},
    )
    cache_limit: float | None = setting(
        None,
        "Largest size of the disk cache in GB; what was not used longest is deleted (default: 20 % of "
        "the free disk).",
        gt=0,
        on_resume="allowed",
        applies_to={"cache": ("auto", "disk")},
    )

    def meaning(self) -> dict[str, Any]:
        """Return the settings that define the samples and targets, where they are not the default."""
        names = (
            *("kind", "task", "target", "label_separators", "text", "drop", "keep", "header"),
            *("split_column", "group_column", "time_column", "series_column", "series_scale"),
            *("window", "horizon", "time_splits"),
            *("val_fraction", "test_fraction"),
        )
        default = type(self)()
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(default, n)}
