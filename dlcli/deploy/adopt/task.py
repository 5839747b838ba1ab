"""The task of a model of another program: from its file's form, the settings, and data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlcli.card import DataRecord
from dlcli.config import DataConfig
from dlcli.config.adopt import AdoptConfig, parse_numbers
from dlcli.data.base import DataSource
from dlcli.data.sources import open_undivided
from dlcli.data.tables.columns import fit_columns
from dlcli.data.tables.rows import TableRows
from dlcli.data.tables.unused import is_number
from dlcli.deploy.adopt.form import Form
from dlcli.errors import DlcliError, UsageError
from dlcli.runs.folder import as_typed
from dlcli.settings import typed_flag
from dlcli.task import (
    ImageInput,
    InputSpec,
    NumberColumn,
    TabularInput,
    TargetNumber,
    TaskKind,
    TaskSpec,
)
from dlcli.wording import listed, plural

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_RAW_MEAN, _RAW_STD = (0.0,) * 3, (1 / 255,) * 3  # which leave pixels from 0 to 255
_SIZE = 224
_MOST_PIXELS = 2**24  # of one image; random ones of the declared size are made
_LEAST_STD = 1e-4  # of pixels from 0 to 1
_IMAGE_OPTIONS = ("img_size", "mean", "std", "resize", "crop_fraction", "interpolation")


@dataclass(frozen=True)
class Described:
    """The input and the classes or numbers of a model, and what was assumed, in words."""

    input: InputSpec
    kind: TaskKind
    class_names: tuple[str, ...]
    targets: tuple[str, ...]
    data: DataRecord | None
    assumed: tuple[str, ...]
    output_name: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """What an output stands for each: classes, or columns to predict."""
        return self.targets or self.class_names

    def task(self, outputs: int, path: Path) -> TaskSpec:
        """The task of a file that gives so many numbers a sample. Raises: DlcliError for others."""
        names = self.names
        if len(names) != outputs:
            what = "columns to predict" if self.targets else "classes"
            raise DlcliError(
                f"{path} gives {plural(outputs, 'number')} a sample, and these are {len(names)} {what}: "
                f"{listed(names, 5)}",
                hint="name its columns: --target A,B"
                if self.targets
                else "give --classes FILE: a name a line, one for each output, in their order",
            )
        return TaskSpec(
            kind=self.kind,
            input=self.input,
            class_names=self.class_names,
            targets=tuple(TargetNumber(name=name) for name in self.targets),
        )


def describe(path: Path, form: Form, config: AdoptConfig) -> Described:
    """What a file's form, the settings and the data say together.

    Raises: UsageError for what is missing, naming the option; DlcliError where they do not fit.
    """
    source = None if config.data is None else open_undivided(_reading(form, config))
    kind = form.kind or (config.kind if config.kind != "auto" else source and source.kind)
    if form.kind and config.kind not in ("auto", form.kind):
        raise UsageError(f"--kind {config.kind}: {path} takes {form.kind} data", hint="leave it out")
    if kind not in ("image", "tabular"):
        raise UsageError(
            f"{path} does not say what it takes, nor does --data: {kind}"
            if kind
            else f"{path} does not say what it takes",
            hint="add --data DIR of class folders, or --kind image --classes FILE",
        )
    if source is not None and source.kind != kind:
        raise DlcliError(
            f"{source.origin} is {source.kind} data, and {path} takes {kind} data",
            hint="give data of the kind that the model takes",
        )
    assumed: list[str] = []
    spec = _image(path, form, config, assumed) if kind == "image" else _table(path, form, source, config)
    task: TaskKind = "classification" if source is None else source.task
    if task not in ("classification", "multilabel", "regression"):
        raise DlcliError(f"{config.data} is for {task}, and adopt is for classes and numbers")
    targets = source.target_names if source is not None and task == "regression" else ()
    classes = () if targets else _classes(path, form, source, config, assumed)
    if kind == "tabular" and source is not None:
        assumed.append(f"columns and targets as in {source.origin}")
    data = None
    if source is not None:
        data = DataRecord(data=source.origin, data_dir=source.data_dir, options=source.options)
    return Described(spec, task, classes, tuple(targets), data, tuple(assumed), config.output_name)


def _reading(form: Form, config: AdoptConfig) -> DataConfig:
    kind = form.kind or (None if config.kind == "auto" else config.kind)
    return DataConfig(data=config.data, kind=kind, target=config.target)


def _image(path: Path, form: Form, config: AdoptConfig, assumed: list[str]) -> ImageInput:
    channels = form.channels or 3
    size = config.img_size or _SIZE
    height, width = form.height or size, form.width or size
    if config.img_size not in (None, height) or config.img_size not in (None, width):
        raise UsageError(
            f"--img-size {config.img_size}: the file takes {height} x {width} pixels",
            hint="leave it out",
        )
    if form.height is None and config.img_size is None:
        assumed.append(f"images of {_SIZE} x {_SIZE} pixels (--img-size)")
    _check_pixels(path, height, width)
    given = config.mean is not None or config.std is not None
    usual = (_RAW_MEAN, _RAW_STD) if form.raw_pixels else (_MEAN, _STD)
    mean = _by_channel("--mean", config.mean, usual[0], channels)
    std = _by_channel("--std", config.std, usual[1], channels)
    if form.raw_pixels and not given:
        assumed.append("pixels from 0 to 255, as the file takes uint8 (--mean, --std)")
    elif not given:
        numbers = ", ".join(f"{m:g}" for m in mean), ", ".join(f"{s:g}" for s in std)
        assumed.append(f"normalised as ImageNet: mean {numbers[0]}, std {numbers[1]} (--mean, --std)")
    squash = config.resize == "squash"
    if not squash:
        assumed.append(
            f"the central crop, {config.crop_fraction:g} of the shorter side (--crop-fraction, --resize)"
        )
    return ImageInput(
        channels=1 if channels == 1 else 3,
        height=height,
        width=width,
        resize=config.resize,
        resize_size=max(height, width) if squash else round(max(height, width) / config.crop_fraction),
        interpolation=config.interpolation,
        mean=mean,
        std=std,
    )


def _check_pixels(path: Path, height: int, width: int) -> None:
    if height * width > _MOST_PIXELS:
        raise DlcliError(
            f"{path} takes images of {height:,} x {width:,} pixels: more than {_MOST_PIXELS:,}",
            hint="export it for smaller images, or with sides of any size",
        )


def _by_channel(
    flag: str, text: str | None, default: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    """The numbers of an option, one a channel. Raises: UsageError for another count, or a std of 0."""
    values = default if text is None else parse_numbers(text)
    if text is None and channels == 1:
        values = (sum(default) / len(default),)
    if len(values) == 1:
        values *= channels
    if len(values) != channels:
        raise UsageError(
            f"{flag} {text}: the images have {plural(channels, 'channel')}",
            hint=f"give {channels} numbers, comma-separated, or one for all",
        )
    low, high = (_LEAST_STD, 2.0) if flag == "--std" else (-1.0, 1.0)
    if not all(low <= value <= high for value in values):  # NaN is outside too
        raise UsageError(
            f"{flag} {text}: of pixels from 0 to 1 it lies between {low:g} and {high:g}",
            hint="divide figures for pixels from 0 to 255 by 255",
        )
    return values


def _table(path: Path, form: Form, source: DataSource | None, config: AdoptConfig) -> TabularInput:
    """The columns as they are: the file does its own scaling. Raises: UsageError, DlcliError."""
    for key in _IMAGE_OPTIONS:
        if key in config.model_fields_set:
            flag = typed_flag(AdoptConfig, key, getattr(config, key))
            raise UsageError(f"{flag} is for images, and {path} takes rows of a table")
    if source is None:
        if form.column_names:
            return TabularInput(numbers=tuple(NumberColumn(name=name) for name in form.column_names))
        raise UsageError(
            f"{path} takes rows of {form.columns or 'some'} numbers, and their columns have no names",
            hint="add --data TABLE --target COLUMN, with the columns in the order of training",
        )
    items = next(iter(source.splits.values())).items
    assert isinstance(items, TableRows)
    frame = items.frame
    names = list(form.column_names or frame.columns)
    missing = [name for name in names if name not in frame.columns]
    words = [name for name in names if name not in missing and not is_number(frame[name])]
    if missing or words:
        raise DlcliError(
            f"{config.data} has no column {missing[0]!r}, which {path} takes"
            if missing
            else f"column {words[0]!r} of {config.data} is words, and {path} takes numbers",
            hint="give the table that the model was trained on, with words encoded as it was",
        )
    if form.columns not in (None, len(names)):
        raise DlcliError(
            f"{path} takes {form.columns} columns, and {config.data} has {len(names)} besides the "
            f"target: {listed(names, 8)}",
            hint="give a table of these columns alone, in the order of training",
        )
    fitted, _ = fit_columns(
        frame.select(names), np.arange(frame.height), formats=items.formats, keep=names
    )
    known = {number.source: number for number in fitted.numbers if not number.period}
    none = NumberColumn(name="none")
    return TabularInput(
        numbers=tuple(
            NumberColumn(
                name=name,
                fill=known.get(name, none).fill,
                format=items.formats.get(name),
                minimum=known.get(name, none).minimum,
                maximum=known.get(name, none).maximum,
            )
            for name in names
        )
    )


def _classes(
    path: Path, form: Form, source: DataSource | None, config: AdoptConfig, assumed: list[str]
) -> tuple[str, ...]:
    """The class names in the order of the outputs. Raises: UsageError where nothing names them."""
    if config.classes is not None:
        return _read_names(Path(config.classes))
    if form.class_names:
        _check_labels(path, form.class_names, source)
        return form.class_names
    if source is None:
        raise UsageError(
            f"{path} does not name its classes",
            hint="add --classes FILE (a name a line, in the order of the outputs), or --data DIR",
        )
    names = tuple(sorted(source.class_names))
    if len(names) == len(source.class_names):
        order = f"the sorted order of the classes of {source.origin} (adopt --classes)"
        assumed.append(f"outputs in {order}")
    return names


def _check_labels(path: Path, labels: tuple[str, ...], source: DataSource | None) -> None:
    """Raises: UsageError where a file's own labels are no names, or not those of the data."""
    others = () if source is None else tuple(n for n in source.class_names if n not in labels)
    shown = listed([repr(label) for label in labels], 5)
    if len({label.strip() for label in labels} - {""}) < len(labels):
        problem = f"{path} names its classes {shown}: each needs a name of its own"
    elif source is not None and others:
        theirs = listed([repr(name) for name in sorted(source.class_names)], 5)
        problem = f"{path} names its classes {shown}, and those of {source.origin} are {theirs}"
    else:
        return
    raise UsageError(
        problem, hint=f"dlcli adopt {as_typed(path)} --classes FILE: a name a line, in the labels' order"
    )


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"cannot read --classes {path}: {reason}", hint="a name a line") from exc
    names = tuple(line.strip() for line in lines if line.strip())
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or twice:
        raise UsageError(
            f"--classes {path} names {twice[0]!r} twice"
            if twice
            else f"--classes {path} has {plural(len(names), 'name')}",
            hint="a name a line, one for each output, in their order",
        )
    return names
