"""The kind "text": tables, folders of text files, plain files of ``label text`` lines.

Arrays: token ids int64 (n, T), lengths int64 (n,).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import (
    DataSource,
    Indices,
    Inputs,
    Listed,
    RaggedReader,
    Reader,
    Samples,
    fingerprint,
    pad,
)
from dlcli.data.kinds import KINDS, DataKind, DataListing, ModelNeeds, ReadOptions
from dlcli.data.notices import Notice, left_out
from dlcli.data.previews import Preview, text_preview
from dlcli.data.scales import make_task
from dlcli.data.tables.frames import is_table
from dlcli.data.tables.label_cells import words_of
from dlcli.data.tables.split_names import split_files
from dlcli.data.tables.targets import encode, infer_target
from dlcli.data.text.description import describe
from dlcli.data.text.files import (
    LAYOUTS,
    PLAIN_SUFFIXES,
    file_digests,
    first_lines,
    has_label_words,
    has_text_files,
    looks_labelled,
    split_label,
    split_label_words,
)
from dlcli.data.text.inputs import predict_texts
from dlcli.data.text.listing import (
    TextListing,
    is_text_table,
    read_folders,
    read_plain,
    read_text_tables,
)
from dlcli.data.text.occlusion import occlude_text
from dlcli.data.text.synthetic import REFERENCE_WORDS, noise, reference_input
from dlcli.data.text.tables import table_head
from dlcli.data.text.text_pairs import SEPARATOR, TextPairs, columns_of, why_no_pair
from dlcli.data.text.tokens import TEXT_SETTINGS, encode_all, fit_text
from dlcli.errors import DlcliError
from dlcli.task import TaskSpec, TextInput
from dlcli.wording import listed, plural

if TYPE_CHECKING:
    import polars


def recognises(path: Path, config: DataConfig) -> bool:
    """Return whether a path is a table of texts, a folder of text files, or lines of ``label text``."""
    if config.task in ("forecast", "seq2seq") or config.horizon is not None:
        return False
    head = table_head(path)
    if head is not None:
        return is_text_table(head, config)
    if path.is_dir() and has_text_files(path):
        return True
    lines = _plain_head(path)
    return lines is not None and looks_labelled(lines)


def read(path: Path, config: DataConfig, other: bool) -> DataListing:
    """Read the texts and targets of a table, a folder or a plain file.

    Raises: DlcliError when a column is missing, a file has no text, train has one class, or another
    split has a class that is not in train.
    """
    if table_head(path) is not None:
        listing = read_text_tables(path, config)
    elif path.is_dir() and has_text_files(path):
        listing = read_folders(path)
    else:
        listing = read_plain(path, config)
    return _data_listing(path, listing, config, other)


def fit(source: DataSource, config: TrainConfig, needs: ModelNeeds) -> tuple[TaskSpec, list[Notice]]:
    """Fit the vocabulary and maximum length on the training texts, and the scales of numeric targets."""
    items = source.splits["train"].items
    assert isinstance(items, Listed)
    spec, notices = fit_text(
        items.values,
        config.data,
        column=source.options.get("text"),
        what="pairs of texts" if isinstance(items, TextPairs) else "texts",
        pretrained=needs.text,
        pair=isinstance(items, TextPairs),
    )
    return make_task(source, spec, config.model), notices


class TextReader(RaggedReader):
    """A split as token ids; ``notices`` are about truncated and empty texts.

    With ``skip`` what is no pair is unreadable where the model takes pairs.
    Raises: DlcliError for it otherwise.
    """

    def __init__(self, samples: Samples, spec: TextInput, *, skip: bool = False) -> None:
        assert isinstance(samples.items, Listed)
        texts = samples.items.values
        reasons = [why_no_pair(text) if skip and spec.pair else None for text in texts]
        good = [i for i, reason in enumerate(reasons) if reason is None]
        encoded = encode_all([texts[i] for i in good], spec)
        super().__init__(samples, _at(good, encoded.ids, len(texts)))
        self.bad = {samples.ids[i]: reason for i, reason in enumerate(reasons) if reason is not None}
        self._types = None if encoded.types is None else _at(good, encoded.types, len(texts))
        self.notices = encoded.notices(spec)

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """Padded token ids, their lengths, and padded token types where the model takes them."""
        assert self.lengths is not None
        inputs, rows = super().read(indices[self.lengths[indices] > 0])  # an empty text has a token
        if self._types is None:
            return inputs, rows
        return (*inputs, pad([self._types[i] for i in rows.tolist()])), rows


def _at(rows: Sequence[int], arrays: Sequence[Indices], count: int) -> list[Indices]:
    """``count`` arrays: those given at their ``rows``, empty ones elsewhere."""
    out = [np.zeros(0, dtype=np.int64)] * count
    for row, array in zip(rows, arrays, strict=True):
        out[row] = array
    return out


def make_reader(samples: Samples, task: TaskSpec, options: ReadOptions) -> Reader:
    """Return the reader of token ids (n, T), lengths (n,) and perhaps token types (n, T)."""
    assert isinstance(task.input, TextInput)
    return TextReader(samples, task.input, skip=options.on_bad_sample == "skip")


def inputs(arguments: Sequence[str], task: TaskSpec) -> Samples:
    """Return the texts or pairs of the arguments of `predict`; see `predict_texts`."""
    spec = task.input
    assert isinstance(spec, TextInput)

    def without_labels(lines: list[str]) -> list[str]:
        """Remove the labels from lines that each begin with a class name, as in training files."""
        filled = [line for line in lines if line.strip()]
        if spec.pair:
            return lines
        if has_label_words(filled):
            return [split_label_words(line)[1] for line in lines]
        labels = {split_label(line)[0] for line in filled}
        return (
            [split_label(line)[1] for line in lines]
            if labels <= set(task.class_names) and looks_labelled(filled)
            else lines
        )

    read = predict_texts(arguments, columns_of(spec), plain=without_labels)
    empty = np.zeros(0, dtype=np.int64)
    return Samples(read.ids, empty, Listed(read.texts), source_rows=read.rows, notices=read.notices)


def _plain_head(path: Path) -> list[str] | None:
    if path.is_file():
        return None if is_table(path) else first_lines(path)
    try:
        files = split_files(path, PLAIN_SUFFIXES)
    except DlcliError:
        return None
    return None if files is None else first_lines(next(iter(files.values())))


def _data_listing(path: Path, listing: TextListing, config: DataConfig, other: bool) -> DataListing:
    parts = listing.splits
    if other:
        cells = _concat_targets([part.targets for part in parts.values()])
        target = infer_target(cells, config.task, min_values=1, separators=config.label_separators)
    else:
        train = parts.get("train", next(iter(parts.values()))).targets
        target = infer_target(train, config.task, separators=config.label_separators)
    notices = [*listing.notices, *target.notices]
    splits: dict[str, Samples] = {}
    for split, part in parts.items():
        targets, rows = encode(part.targets, target, where=part.where)
        indices = np.flatnonzero(rows)
        if len(indices) < len(part.ids):
            message = (
                f"{part.where}: {plural(len(part.ids) - len(indices), 'text')} without a target left out"
            )
            notices.append(left_out(message))
        if not len(indices):
            continue
        texts = [part.texts[i] for i in indices]
        splits[split] = Samples(
            ids=tuple(part.ids[i] for i in indices),
            targets=targets,
            items=(TextPairs if listing.pair else Listed)(tuple(texts)),
            groups=None if part.groups is None else tuple(part.groups[i] for i in indices),
            source_rows=None if part.source is None else part.source.take(indices),
        )
        missing = np.setdiff1d(np.arange(len(target.class_names)), targets)
        if target.task == "classification" and len(missing) and not other:
            names = listed([target.class_names[i] for i in missing], 5)
            message = f"{part.where} has no text of {names}"
            notices.append(Notice(message, "missing-class"))
    if not splits:
        raise DlcliError(f"{path}: no text has a target", hint=LAYOUTS)
    return DataListing(
        splits=splits,
        fingerprint=_fingerprint(listing, splits),
        task=target.task,
        class_names=target.class_names,
        target_names=target.target_names,
        options={**listing.options, "task": target.task, **target.options},
        notices=tuple(notices),
    )


def _concat_targets(parts: Sequence[Mapping[str, polars.Series]]) -> dict[str, polars.Series]:
    """Concatenate the target columns of all splits, as strings where their types differ."""
    import polars as pl

    out = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        same = len({str(column.dtype) for column in columns}) == 1
        out[name] = pl.concat(columns if same else [words_of(column) for column in columns])
    return out


def _fingerprint(listing: TextListing, splits: Mapping[str, Samples]) -> str:
    ids = ["\0".join([split, *part.ids]).encode() for split, part in sorted(splits.items())]
    return fingerprint([*file_digests(listing.files), *ids])


def lengths(samples: Samples) -> list[float]:
    """Return the number of characters of each text."""
    assert isinstance(samples.items, Listed)
    return [len(text) for text in samples.items.values]


def preview(samples: Samples, inputs: Inputs, spec: TextInput) -> Preview:
    """Return the text itself, or the two of a pair."""
    assert isinstance(samples.items, Listed)
    text = str(samples.items.values[0])
    return text_preview(text.replace(SEPARATOR, " | ") if spec.pair else text)


KINDS.register("text")(
    DataKind(
        name="text",
        unit=lambda task: "texts",
        recognises=recognises,
        read=read,
        fit=fit,
        reader=make_reader,
        inputs=inputs,
        inputs_by_task=False,
        reference_input=reference_input,
        reference_words=REFERENCE_WORDS,
        noise=noise,
        describe=describe,
        preview=preview,
        occlude=occlude_text,
        measures={"length": lengths},
        size_words="up to {} tokens",
        own_settings=(*TEXT_SETTINGS, "model.word_vectors"),
        order=30,
    )
)
