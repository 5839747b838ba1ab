"""The kind "pairs": a source text and a target text, as in translation.

Arrays: source ids int64 (n, S), lengths int64 (n,), prefix int64 (n, T) that begins with START; targets
int64 (n, T) are the prefix shifted by one, with END at the end. T includes START or END, so a target
text has at most ``target.max_length`` - 1 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import (
    DataSource,
    Indices,
    Inputs,
    Listed,
    Reader,
    Samples,
    Targets,
    fingerprint,
    pad,
)
from dlcli.data.kinds import KINDS, DataKind, DataListing, Description, ModelNeeds, ReadOptions
from dlcli.data.notices import Notice, left_out
from dlcli.data.pairs.files import (
    LAYOUTS,
    is_pair_table,
    looks_paired,
    parallel_files,
    plain_files,
    read_pair_tables,
    read_parallel,
    read_plain,
)
from dlcli.data.pairs.synthetic import REFERENCE_WORDS, noise, reference_input
from dlcli.data.previews import Preview, text_preview
from dlcli.data.text.description import text_facts
from dlcli.data.text.files import file_digests, first_lines
from dlcli.data.text.inputs import predict_texts
from dlcli.data.text.tables import table_head
from dlcli.data.text.tokens import TEXT_SETTINGS, TokenIds, encode_all, fit_text
from dlcli.errors import DlcliError
from dlcli.task import END, START, PairsInput, TaskSpec


def recognises(path: Path, config: DataConfig) -> bool:
    """Return whether a path has two text columns, parallel files, or lines of tab-separated texts."""
    if config.task not in (None, "seq2seq") or config.horizon is not None:
        return False
    head = table_head(path)
    if head is not None:
        return is_pair_table(head, config)
    parallel = parallel_files(path)
    if parallel is not None:
        return all(first_lines(file) is not None for file in next(iter(parallel.values())).values())
    files = plain_files(path)
    lines = None if files is None else first_lines(next(iter(files.values())))
    return lines is not None and looks_paired(lines)


def read(path: Path, config: DataConfig, other: bool) -> DataListing:
    """Read the complete pairs. Raises: DlcliError when a column, a line or a file is missing."""
    if table_head(path) is not None:
        listing = read_pair_tables(path, config)
    elif (files := parallel_files(path)) is not None:
        listing = read_parallel(path, files, config)
    else:
        listing = read_plain(path)
    splits: dict[str, Samples] = {}
    for split, part in listing.splits.items():
        pairs = [(s.strip(), t.strip()) for s, t in zip(part.sources, part.targets, strict=True)]
        indices = [i for i, (source, target) in enumerate(pairs) if source and target]
        if len(indices) < len(pairs):
            incomplete = len(pairs) - len(indices)
            message = f"{part.where}: {incomplete:,} of {len(pairs):,} pairs with an empty side left out"
            listing.notices.append(left_out(message))
        if indices:
            splits[split] = Samples(
                ids=tuple(part.ids[i] for i in indices),
                targets=np.zeros(len(indices), dtype=np.int64),
                items=Listed(tuple(pairs[i] for i in indices)),
                groups=None if part.groups is None else tuple(part.groups[i] for i in indices),
            )
    if not splits:
        raise DlcliError(f"{path}: no pair has both texts", hint=LAYOUTS)
    ids = ["\0".join([split, *part.ids]).encode() for split, part in sorted(splits.items())]
    return DataListing(
        splits=splits,
        fingerprint=fingerprint([*file_digests(listing.files), *ids]),
        task="seq2seq",
        options=dict(listing.options),
        notices=tuple(listing.notices),
    )


def fit(source: DataSource, config: TrainConfig, needs: ModelNeeds) -> tuple[TaskSpec, list[Notice]]:
    """Fit a vocabulary and a maximum length for each side on the training pairs."""
    items = source.splits["train"].items
    assert isinstance(items, Listed)
    options = source.options
    source_spec, notices = fit_text(
        [pair[0] for pair in items.values], config.data, column=options.get("text"), what="source texts"
    )
    target_spec, more = fit_text(
        [pair[1] for pair in items.values],
        config.data,
        column=options.get("target"),
        what="target texts",
    )
    # One more token for START or END.
    target_spec = target_spec.model_copy(update={"max_length": target_spec.max_length + 1})
    spec = PairsInput(source=source_spec, target=target_spec)
    if target_spec.lowercase:
        message = "texts are converted to lower case, so translations are in lower case"
        more.append(Notice(f"{message}; --set data.lowercase=false keeps upper case", "lowercase"))
    return TaskSpec(kind="seq2seq", input=spec), [*notices, *more]


class PairsReader(Reader):
    """A split as token ids; ``notices`` are about truncated and empty texts.

    ``lengths`` are those of the sources. The prefix of samples without a target text is START.
    """

    def __init__(self, samples: Samples, spec: PairsInput) -> None:
        super().__init__(samples)
        assert isinstance(samples.items, Listed)
        sources = encode_all([pair[0] for pair in samples.items.values], spec.source)
        self._sources = sources.ids
        self.lengths = np.array([len(ids) for ids in sources.ids], dtype=np.int64)
        self.notices = [notice.prefixed("source") for notice in sources.notices(spec.source)]
        target_texts = [pair[1] for pair in samples.items.values]
        self._targets: list[TokenIds] | None = None
        if all(text is not None for text in target_texts):
            max_length = max(1, spec.target.max_length - 1)
            limited = spec.target.model_copy(update={"max_length": max_length})
            targets = encode_all(target_texts, limited)
            self._targets = targets.ids
            self.notices += [notice.prefixed("target") for notice in targets.notices(limited)]

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """Return sources (n, S), their lengths (n,), and prefixes (n, T) of START and target ids."""
        assert self.lengths is not None
        where = indices.tolist()
        sources = pad([self._sources[i] for i in where])
        return (sources, self.lengths[indices], self._shifted(indices, [START], [])), indices

    def targets(self, indices: Indices) -> Targets:
        """Return the next token of each prefix position (n, T): the target's ids, END, PAD."""
        return self._shifted(indices, [], [END])

    def _shifted(self, indices: Indices, before: list[int], after: list[int]) -> Targets:
        empty = np.zeros(0, dtype=np.int64)
        bodies = [empty if self._targets is None else self._targets[i] for i in indices.tolist()]
        return pad([np.array([*before, *body.tolist(), *after], dtype=np.int64) for body in bodies])


def make_reader(samples: Samples, task: TaskSpec, options: ReadOptions) -> Reader:
    """Return the reader of source ids, lengths and prefixes."""
    assert isinstance(task.input, PairsInput)
    return PairsReader(samples, task.input)


def inputs(arguments: Sequence[str], task: TaskSpec) -> Samples:
    """Return the source texts of the arguments of `predict`; see `predict_texts`."""
    assert isinstance(task.input, PairsInput)

    def sources(lines: list[str]) -> list[str]:
        """Return the sources of lines that are tab-separated pairs, as in training files."""
        filled = [line for line in lines if line.strip()]
        paired = bool(filled) and all("\t" in line for line in filled)
        return [line.partition("\t")[0] for line in lines] if paired else lines

    column = task.input.source.column
    read = predict_texts(arguments, () if column is None else (column,), plain=sources)
    pairs, empty = Listed(tuple((text, None) for text in read.texts)), np.zeros(0, dtype=np.int64)
    return Samples(read.ids, empty, pairs, source_rows=read.rows, notices=read.notices)


def describe(spec: PairsInput) -> Description:
    """Describe source and target."""
    return Description(tables=(("Source", text_facts(spec.source)), ("Target", text_facts(spec.target))))


def preview(samples: Samples, inputs: Inputs, spec: PairsInput) -> Preview:
    """Return the source text."""
    assert isinstance(samples.items, Listed)
    return text_preview(samples.items.values[0][0])


KINDS.register("pairs")(
    DataKind(
        name="pairs",
        unit=lambda task: "pairs",
        recognises=recognises,
        read=read,
        fit=fit,
        reader=make_reader,
        inputs=inputs,
        reference_input=reference_input,
        reference_words=REFERENCE_WORDS,
        noise=noise,
        describe=describe,
        preview=preview,
        size_words="up to {} tokens",
        own_settings=TEXT_SETTINGS,
        order=20,
    )
)
