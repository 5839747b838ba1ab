"""A text to read and a text to write, such as a translation.

Arrays: source ids int64 (n, S), lengths int64 (n,), prefix int64 (n, T) that begins with START; targets
int64 (n, T) are the prefix moved on by one, END last. T counts that mark, so a target text has at most
``target.max_length`` - 1 tokens.
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
from dlcli.data.text.description import text_facts
from dlcli.data.text.files import digest, first_lines
from dlcli.data.text.inputs import given_texts
from dlcli.data.text.tables import table_head
from dlcli.data.text.tokens import TEXT_SETTINGS, TokenIds, encode_all, fit_text
from dlcli.errors import DlcliError
from dlcli.task import END, START, PairsInput, TaskSpec


def recognises(path: Path, config: DataConfig) -> bool:
    """Two columns of text, two parallel files, or lines of two texts with a tab between."""
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
    """The pairs that are whole. Raises: DlcliError when a column, a line or a file is missing."""
    if table_head(path) is not None:
        listing = read_pair_tables(path, config)
    elif (files := parallel_files(path)) is not None:
        listing = read_parallel(path, files, config)
    else:
        listing = read_plain(path)
    splits: dict[str, Samples] = {}
    for split, part in listing.parts.items():
        pairs = [(s.strip(), t.strip()) for s, t in zip(part.sources, part.targets, strict=True)]
        indices = [i for i, (source, target) in enumerate(pairs) if source and target]
        if len(indices) < len(pairs):
            lacking = len(pairs) - len(indices)
            message = f"{part.where}: {lacking:,} of {len(pairs):,} pairs lack a side: left out"
            listing.notices.append(left_out(message))
        if indices:
            splits[split] = Samples(
                ids=tuple(part.ids[i] for i in indices),
                targets=np.zeros(len(indices), dtype=np.int64),
                items=Listed(tuple(pairs[i] for i in indices)),
                groups=None if part.groups is None else tuple(part.groups[i] for i in indices),
            )
    if not splits:
        raise DlcliError(f"{path}: no pair has both its texts", hint=LAYOUTS)
    ids = ["\0".join([split, *part.ids]).encode() for split, part in sorted(splits.items())]
    return DataListing(
        splits=splits,
        fingerprint=fingerprint([*digest(listing.files), *ids]),
        task="seq2seq",
        options=dict(listing.options),
        notices=tuple(listing.notices),
    )


def fit(source: DataSource, config: TrainConfig, needs: ModelNeeds) -> tuple[TaskSpec, list[Notice]]:
    """A vocabulary and a largest length for each side, from the training pairs."""
    items = source.splits["train"].items
    assert isinstance(items, Listed)
    options = source.options
    read_, notices = fit_text(
        [pair[0] for pair in items.values], config.data, column=options.get("text"), what="source texts"
    )
    write, more = fit_text(
        [pair[1] for pair in items.values],
        config.data,
        column=options.get("target"),
        what="target texts",
    )
    # START or END is one token more.
    write = write.model_copy(update={"max_length": write.max_length + 1})
    return TaskSpec(kind="seq2seq", input=PairsInput(source=read_, target=write)), [*notices, *more]


class PairsReader(Reader):
    """A split as token ids; ``notices`` are about texts that were truncated or are empty.

    ``lengths`` are those of the sources. Samples without a target text have START alone as prefix.
    """

    def __init__(self, samples: Samples, spec: PairsInput) -> None:
        super().__init__(samples)
        assert isinstance(samples.items, Listed)
        sources = encode_all([pair[0] for pair in samples.items.values], spec.source)
        self._sources = sources.ids
        self.lengths = np.array([len(ids) for ids in sources.ids], dtype=np.int64)
        self.notices = [notice.prefixed("source") for notice in sources.notices(spec.source)]
        written = [pair[1] for pair in samples.items.values]
        self._targets: list[TokenIds] | None = None
        if all(text is not None for text in written):
            room = max(1, spec.target.max_length - 1)
            limited = spec.target.model_copy(update={"max_length": room})
            targets = encode_all(written, limited)
            self._targets = targets.ids
            self.notices += [notice.prefixed("target") for notice in targets.notices(limited)]

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """Sources (n, S), their lengths (n,), and prefixes (n, T): START, then the target's ids."""
        assert self.lengths is not None
        where = indices.tolist()
        sources = pad([self._sources[i] for i in where])
        return (sources, self.lengths[indices], self._shifted(indices, [START], [])), indices

    def targets(self, indices: Indices) -> Targets:
        """What follows each token of the prefix (n, T): the target's ids, then END, then PAD."""
        return self._shifted(indices, [], [END])

    def _shifted(self, indices: Indices, before: list[int], after: list[int]) -> Targets:
        nothing = np.zeros(0, dtype=np.int64)
        bodies = [nothing if self._targets is None else self._targets[i] for i in indices.tolist()]
        return pad([np.array([*before, *body.tolist(), *after], dtype=np.int64) for body in bodies])


def make_reader(samples: Samples, task: TaskSpec, options: ReadOptions) -> Reader:
    """Source ids, lengths and prefixes; targets are token ids too."""
    assert isinstance(task.input, PairsInput)
    return PairsReader(samples, task.input)


def inputs(arguments: Sequence[str], task: TaskSpec) -> Samples:
    """The texts to read of files, of "-", or the arguments themselves; see `given_texts`."""
    assert isinstance(task.input, PairsInput)

    def sources(lines: list[str]) -> list[str]:
        """The left sides of a file such as those trained on."""
        shown = [line for line in lines if line.strip()]
        paired = bool(shown) and all("\t" in line for line in shown)
        return [line.partition("\t")[0] for line in lines] if paired else lines

    ids, texts = given_texts(arguments, task.input.source.column, plain=sources)
    return Samples(
        tuple(ids), np.zeros(0, dtype=np.int64), Listed(tuple((text, None) for text in texts))
    )


def describe(spec: PairsInput) -> Description:
    """Both texts."""
    return Description(tables=(("Source", text_facts(spec.source)), ("Target", text_facts(spec.target))))


KINDS.register("pairs")(
    DataKind(
        name="pairs",
        recognises=recognises,
        read=read,
        fit=fit,
        reader=make_reader,
        inputs=inputs,
        reference_input=reference_input,
        reference_words=REFERENCE_WORDS,
        noise=noise,
        describe=describe,
        size_words="up to {} tokens",
        own_settings=TEXT_SETTINGS,
        order=20,
    )
)
