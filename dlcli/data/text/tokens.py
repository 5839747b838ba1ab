"""Tokenization: words, byte-pair encoding, and their vocabularies.

Both depend on a `TextInput` only, so training, `predict` and exported models tokenize alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from dlcli.data.notices import Notice
from dlcli.data.text.byte_pairs import BytePairTokenizer, fit_byte_pairs, replace_surrogates
from dlcli.data.text.pretrained import FileTokenizer, check_pretrained
from dlcli.data.text.scripts import UNSPACED_SCRIPTS, unspaced_share
from dlcli.errors import DlcliError
from dlcli.task import END, PAD, SPECIAL_TOKENS, START, UNKNOWN, TextInput

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

_CLOSING_MARKS = frozenset(".,!?;:)]}%…»”、。，！？；：）」』】")  # without a space before
_OPENING_MARKS = frozenset("([{«“¿¡「『【（")  # without a space after
_JOINING_MARKS = frozenset("-/_@#")
_QUOTES = frozenset("\"'")


class Tokenizer(Protocol):
    """A tokenizer with its vocabulary; ``special`` are the ids that it puts around every text."""

    special: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, not truncated, the special ones included."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without PAD, START and END."""


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids of texts, and counts of texts that were truncated, empty or mostly unknown tokens."""

    ids: list[TokenIds]
    truncated: int
    empty: int
    mostly_unknown: int

    def notices(self, spec: TextInput) -> list[Notice]:
        """Counts of empty, truncated and mostly unknown texts."""
        total, notices = f"{len(self.ids):,} texts", []
        if self.empty:
            message = f"{self.empty:,} of {total} are empty and encoded as one unknown token"
            notices.append(Notice(message, "empty-text"))
        if self.truncated:
            message = f"{self.truncated:,} of {total} are longer than {spec.max_length:,} tokens"
            notices.append(Notice(f"{message} and are truncated (--max-length)", "cut-texts"))
        if self.mostly_unknown:
            message = f"{self.mostly_unknown:,} of {total} are mostly unknown words"
            notices.append(Notice(message))
        return notices


def split_words(text: str, *, lowercase: bool = True) -> list[str]:
    """Split a text into words, numbers and punctuation marks.

    A word is a run of letters and digits with their combining marks, apostrophes inside it included;
    a number keeps the points and commas between its digits; any other visible character is a token
    of its own. The text is first normalized to NFC; invisible characters (byte order marks, joiners)
    are removed and typographic apostrophes replaced.
    """
    return _word_pattern().findall(_normalize(text, lowercase))


def fit_text(
    texts: Sequence[str],
    config: DataConfig,
    *,
    column: str | None = None,
    what: str = "texts",
    pretrained: TextInput | None = None,
) -> tuple[TextInput, list[Notice]]:
    """Fit tokenizer, vocabulary and maximum length on training texts; also return notices.

    The word vocabulary is SPECIAL_TOKENS, then words with at least ``min_count`` occurrences by
    descending frequency, then alphabetically, up to ``vocab_size`` entries. ``max_length`` defaults to
    the 99 % quantile, but at least 128 (or the longest text) and at most 512. Of a ``pretrained``
    tokenizer only the maximum length is fitted, up to its own.

    Raises: DlcliError when all texts are empty, or the library for byte-pair encoding is missing;
    UsageError when ``vocab_size`` is too small for it, and for settings of a vocabulary that is given.
    """
    empty_length = 0
    if pretrained is not None:
        check_pretrained(pretrained, config)
        tokenizer = tokenizer_of(pretrained)
        empty_length = len(tokenizer.special)
        spec, counts = pretrained, [len(tokenizer.encode(text)) for text in texts]
    elif config.tokenizer == "bpe":
        spec, counts = fit_byte_pairs(texts, config)
    else:
        spec, counts = _fit_words(texts, config)
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
    tokenizer = tokenizer_of(spec)
    out, truncated, empty, mostly_unknown = [], 0, 0, 0
    for text in texts:
        ids = tokenizer.encode(text)
        count = len(ids) - len(tokenizer.special)
        truncated += len(ids) > spec.max_length
        empty += count == 0
        mostly_unknown += 2 * ids.count(spec.unknown) > count
        out.append(
            np.array(truncate(ids, spec.max_length, tokenizer.special) or [spec.unknown], dtype=np.int64)
        )
    return EncodedTexts(out, truncated, empty, mostly_unknown)


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


class WordTokenizer:
    """Word tokenizer with a fixed vocabulary."""

    special: tuple[int, ...] = ()

    def __init__(self, spec: TextInput) -> None:
        self._spec = spec
        self._token_ids = {token: i for i, token in enumerate(spec.vocabulary)}

    def encode(self, text: str) -> list[int]:
        tokens = split_words(text, lowercase=self._spec.lowercase)
        return [self._token_ids.get(word, UNKNOWN) for word in tokens]

    def decode(self, ids: Sequence[int]) -> str:
        return join_words([self._spec.vocabulary[i] for i in ids])


def join_words(tokens: Sequence[str]) -> str:
    """Join words and punctuation marks to text; quotation marks open and close alternately."""
    out: list[str] = []
    no_space = True  # before the next token
    open_quotes: set[str] = set()
    for token in tokens:
        closes = token in _CLOSING_MARKS or token in open_quotes
        unspaced = bool(out) and _is_unspaced(token) and _is_unspaced(out[-1])
        if not (no_space or closes or unspaced or token in _JOINING_MARKS):
            out.append(" ")
        out.append(token)
        no_space = (
            token in _OPENING_MARKS or token in _JOINING_MARKS or (token in _QUOTES and not closes)
        )
        if token in _QUOTES:
            open_quotes ^= {token}
    return "".join(out)


def _is_unspaced(token: str) -> bool:
    return re.match(f"[{UNSPACED_SCRIPTS}\u3000-\u303f\uff00-\uff65]", token) is not None


def _normalize(text: str, lowercase: bool) -> str:
    if text.isascii():
        text = _CONTROLS.sub(" ", text)
    else:
        text = unicodedata.normalize("NFC", replace_surrogates(text)).replace("\u2019", "'")
        text = _CONTROLS.sub(" ", _INVISIBLE.sub("", text))
    return text.lower() if lowercase else text


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")


@lru_cache(maxsize=1)
def _word_pattern() -> re.Pattern[str]:
    """Return the pattern of a token. To `re`, combining marks are not word characters."""
    marks = "".join(
        f"{chr(first)}-{chr(last)}" if last > first else chr(first) for first, last in _mark_ranges()
    )
    sign = f"[{UNSPACED_SCRIPTS}][{marks}]*"
    letter = f"[^\\W_{UNSPACED_SCRIPTS}][{marks}]*"
    number = r"\d+(?:[.,]\d+)+(?![^\W_])"
    return re.compile(f"{number}|(?:{letter})+(?:'(?:{letter})+)*|{sign}|\\S[{marks}]*")


def _mark_ranges() -> list[tuple[int, int]]:
    """Return the (first, last) ranges of combining marks in Unicode (takes about 10 ms)."""
    runs: list[tuple[int, int]] = []
    for code in range(0x300, 0x1F000):
        if unicodedata.category(chr(code))[0] != "M":
            continue
        if runs and runs[-1][1] == code - 1:
            runs[-1] = (runs[-1][0], code)
        else:
            runs.append((code, code))
    return runs


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
