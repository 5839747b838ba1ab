"""Tokenization of texts by the tokenizer of a `TextInput`, which is fitted here.

It depends on that only, so training, `predict` and exported models tokenize alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from dlcli.data.base import pad
from dlcli.data.notices import Notice
from dlcli.data.text.byte_pairs import BytePairTokenizer, fit_byte_pairs
from dlcli.data.text.pretrained import FileTokenizer, check_pretrained
from dlcli.data.text.scripts import unspaced_share
from dlcli.data.text.text_pairs import Encoded, columns_of, divide
from dlcli.data.text.words import WordTokenizer, split_words
from dlcli.errors import DlcliError, UsageError
from dlcli.task import END, PAD, SPECIAL_TOKENS, START, TextInput
from dlcli.wording import plural

if TYPE_CHECKING:
    from dlcli.config import DataConfig

TokenIds = npt.NDArray[np.int64]  # (T,)

# The settings that `fit_text` reads.
TEXT_SETTINGS = (
    *("data.text", "data.tokenizer", "data.vocab_size", "data.min_count"),
    *("data.lowercase", "data.max_length", "data.header"),
)
# The default of max_length: this quantile of the lengths of the training texts, within these limits.
LENGTH_QUANTILE = 0.99
MIN_DEFAULT_LENGTH = 128  # truncating shorter texts saves little
MIN_UNSPACED_SHARE = 0.01  # of the letters, to say how scripts without spaces are split
MAX_DEFAULT_LENGTH = 512  # the cost of attention is quadratic in the length


class Tokenizer(Protocol):
    """A tokenizer with its vocabulary; ``special`` are the ids that it puts around every text.

    ``pair_special`` is how many it adds to the two texts of a pair.
    """

    special: tuple[int, ...]
    pair_special: int

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, not truncated, the special ones included."""

    def encode_pair(self, first: str, second: str, limit: int) -> Encoded:
        """Encode two texts together in at most ``limit`` tokens, the special ones included."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without PAD, START and END."""


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids of texts, and counts of texts that were truncated, empty or mostly unknown tokens.

    ``types`` are the token types, where the model takes them. ``lacking`` counts the pairs whose first
    text alone is empty, and those whose second is.
    """

    ids: list[TokenIds]
    truncated: int
    empty: int
    mostly_unknown: int
    types: list[TokenIds] | None = None
    lacking: tuple[int, int] = (0, 0)

    def arrays(self) -> tuple[npt.NDArray[np.int64], ...]:
        """All texts as a model takes them: ids (n, T), lengths (n,), and types (n, T) if there are."""
        lengths = np.array([len(ids) for ids in self.ids], dtype=np.int64)
        return (pad(self.ids), lengths, *(() if self.types is None else (pad(self.types),)))

    def notices(self, spec: TextInput) -> list[Notice]:
        """Counts of empty, truncated and mostly unknown texts."""
        total, notices = f"{len(self.ids):,} texts", []
        if self.empty:
            message = f"{self.empty:,} of {total} are empty and encoded as one unknown token"
            notices.append(Notice(message, "empty-text"))
        names = map(repr, columns_of(spec)) if columns_of(spec) else ("first text", "second text")
        parts = [f"{n:,} without {name}" for n, name in zip(self.lacking, names, strict=False) if n]
        if parts:
            message = f"{plural(len(self.ids), 'pair')}: {', '.join(parts)}, encoded with an empty text"
            notices.append(Notice(message, "empty-text"))
        if self.truncated:
            message = f"{self.truncated:,} of {total} are longer than {spec.max_length:,} tokens"
            notices.append(Notice(f"{message} and are truncated (--max-length)", "cut-texts"))
        if self.mostly_unknown:
            message = f"{self.mostly_unknown:,} of {total} are mostly unknown words"
            notices.append(Notice(message))
        return notices


def fit_text(
    texts: Sequence[str],
    config: DataConfig,
    *,
    column: str | None = None,
    what: str = "texts",
    pretrained: TextInput | None = None,
    pair: bool = False,
) -> tuple[TextInput, list[Notice]]:
    """Fit tokenizer, vocabulary and maximum length on training texts; also return notices.

    The word vocabulary is SPECIAL_TOKENS, then words with at least ``min_count`` occurrences by
    descending frequency, then alphabetically, up to ``vocab_size`` entries. ``max_length`` defaults to
    the 99 % quantile, but at least 128 (or the longest text) and at most 512. Of a ``pretrained``
    tokenizer only the maximum length is fitted, up to its own. With ``pair`` texts are pairs of them.

    Raises: DlcliError when all texts are empty, or the library for byte-pair encoding is missing;
    UsageError when ``vocab_size`` is too small for it, for settings of a vocabulary that is given, and
    for a ``max_length`` without room for two texts.
    """
    if pretrained is not None:
        check_pretrained(pretrained, config)
        types = pair and pretrained.token_types
        spec = pretrained.model_copy(update={"pair": pair, "token_types": types})
        counts = [len(ids) for ids in whole_ids(texts, spec)]
    else:
        fit = fit_byte_pairs if config.tokenizer == "bpe" else _fit_words
        spec, counts = fit([part for text in texts for part in divide(text)] if pair else texts, config)
        if pair:
            spec = spec.model_copy(update={"pair": True})
            counts = [one + other + 1 for one, other in zip(counts[::2], counts[1::2], strict=True)]
    empty_length = _special_tokens(spec)
    if pair and config.max_length is not None and config.max_length < empty_length + 2:
        raise UsageError(
            f"--max-length {config.max_length} has no room for two texts and {empty_length} special "
            "tokens",
            hint=f"--max-length {empty_length + 2} is the least",
        )
    lengths = np.array(counts, dtype=np.int64)
    if not lengths.size or lengths.max() == empty_length:
        raise DlcliError(
            f"all {len(lengths):,} training {what} are empty",
            hint="check the text column (data.text)",
        )
    limit = config.max_length or default_length(lengths)
    if pretrained is not None:
        limit = min(limit, pretrained.max_length)
    spec = spec.model_copy(update={"max_length": limit, "column": column})
    return spec, [*_fit_notices(spec, lengths, config, what), *_script_notices(spec, texts, what)]


def default_length(lengths: npt.NDArray[np.int64]) -> int:
    """Return the default of ``max_length`` for training texts of these token counts (N,)."""
    longest = int(lengths.max())
    quantile = int(np.quantile(lengths, LENGTH_QUANTILE, method="higher"))
    return max(1, min(longest, MAX_DEFAULT_LENGTH, max(MIN_DEFAULT_LENGTH, quantile)))


def encode(text: str, spec: TextInput) -> TokenIds:
    """Encode a text as token ids (T,), 1 <= T <= ``max_length``.

    An empty text is the unknown token, or the special tokens of its tokenizer.
    """
    return encode_all([text], spec).ids[0]


def encode_all(texts: Sequence[str], spec: TextInput) -> EncodedTexts:
    """Encode texts as `encode` does; also count truncated, empty and mostly unknown ones."""
    tokenizer, special = tokenizer_of(spec), _special_tokens(spec)
    out, types, truncated, empty, mostly_unknown = [], [], 0, 0, 0
    lacking = [0, 0]
    for text in texts:
        one = _encode(text, spec, tokenizer)
        count = len(one.whole) - special
        truncated += len(one.whole) > spec.max_length
        empty += count == 0
        mostly_unknown += 2 * one.whole.count(spec.unknown) > count
        out.append(np.array(one.ids or [spec.unknown], dtype=np.int64))
        if spec.token_types:
            types.append(np.array(one.types, dtype=np.int64))
        if spec.pair:
            blank = [not part.strip() for part in divide(text)]
            if sum(blank) == 1:  # without both it counts as empty
                lacking[blank.index(True)] += 1
    all_types = types if spec.token_types else None
    return EncodedTexts(out, truncated, empty, mostly_unknown, all_types, (lacking[0], lacking[1]))


def whole_ids(texts: Sequence[str], spec: TextInput) -> list[list[int]]:
    """Return the token ids of texts or pairs, not truncated, the special ones included."""
    tokenizer = tokenizer_of(spec)
    return [_encode(text, spec, tokenizer).whole for text in texts]


def _encode(text: str, spec: TextInput, tokenizer: Tokenizer) -> Encoded:
    if spec.pair:
        return tokenizer.encode_pair(*divide(text), spec.max_length)
    whole = tokenizer.encode(text)
    ids = truncate(whole, spec.max_length, tokenizer.special)
    return Encoded(ids, [0] * len(ids), whole)


def _special_tokens(spec: TextInput) -> int:
    """Return how many tokens of an encoded text or pair are special ones."""
    tokenizer = tokenizer_of(spec)
    return tokenizer.pair_special if spec.pair else len(tokenizer.special)


def truncate(ids: list[int], length: int, special: Sequence[int]) -> list[int]:
    """Truncate a text's ids (T,) at its end; the special tokens after the text stay."""
    if len(ids) <= length:
        return ids
    before = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, special, strict=False)))
    after = len(special) - before
    return [*ids[: max(0, length - after)], *ids[len(ids) - after :]][:length]


def decode(ids: Sequence[int] | npt.NDArray[Any], spec: TextInput) -> str:
    """Decode ids up to the first END, skipping PAD and START.

    Words are joined with spaces, except before closing and after opening punctuation.
    """
    content: list[int] = []
    for id_ in (int(i) for i in ids):
        if id_ == END:
            break
        if id_ not in (PAD, START):
            content.append(id_)
    return tokenizer_of(spec).decode(content)


@lru_cache(maxsize=8)
def tokenizer_of(spec: TextInput) -> Tokenizer:
    """Return the tokenizer of a spec. Raises: DlcliError when it is invalid or a library is missing."""
    if spec.tokenizer == "file":
        return FileTokenizer(spec)
    return BytePairTokenizer(spec) if spec.tokenizer == "bpe" else WordTokenizer(spec)


def _fit_words(texts: Sequence[str], config: DataConfig) -> tuple[TextInput, list[int]]:
    frequencies: Counter[str] = Counter()
    counts = []
    for text in texts:
        tokens = split_words(text, lowercase=config.lowercase)
        frequencies.update(tokens)
        counts.append(len(tokens))
    max_words = config.vocab_size - len(SPECIAL_TOKENS)
    ranked = sorted(frequencies.items(), key=lambda item: (-item[1], item[0]))
    frequent = [word for word, count in ranked if count >= config.min_count][:max_words]
    vocabulary = (*SPECIAL_TOKENS, *frequent)
    return TextInput(vocabulary=vocabulary, lowercase=config.lowercase, max_length=1), counts


def _script_notices(spec: TextInput, texts: Sequence[str], what: str) -> list[Notice]:
    """Return a notice of scripts without spaces between words, and of what is a token there."""
    share, script = unspaced_share(texts)
    if share < MIN_UNSPACED_SHARE or spec.tokenizer == "file":
        return []
    message = f"{what}: {share:.0%} of the letters are {script}, written without spaces between words; "
    if spec.tokenizer == "bpe":
        return [Notice(f"{message}tokens are byte pairs", "unspaced-script")]
    return [Notice(f"{message}each is a token (--tokenizer bpe learns longer ones)", "unspaced-script")]


def _fit_notices(
    spec: TextInput, lengths: npt.NDArray[np.int64], config: DataConfig, what: str
) -> list[Notice]:
    total, truncated = len(lengths), int((lengths > spec.max_length).sum())
    vocabulary = f"{what}: vocabulary of {spec.vocab_size:,} tokens"
    median, longest = int(np.median(lengths)), int(lengths.max())
    notices = [Notice(f"{vocabulary}, median length {median:,}, longest {longest:,}", "vocabulary")]
    if truncated:
        default = (
            f"at most {MAX_DEFAULT_LENGTH}"
            if spec.max_length == MAX_DEFAULT_LENGTH
            else f"the {LENGTH_QUANTILE:.0%} quantile"
        )
        why = "" if config.max_length else f"; the default is {default}"
        message = (
            f"{truncated:,} of {total:,} training {what} are longer than {spec.max_length:,} tokens"
        )
        notices.append(Notice(f"{message} and are truncated (--max-length{why})", "cut-texts"))
    return notices
