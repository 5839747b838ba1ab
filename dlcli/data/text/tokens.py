"""Tokenizers: words without any library, byte-pair encoding, and their vocabularies.

Both are functions of a `TextInput` alone, so training, `predict` and every export tokenize a text alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dlcli.config import DataConfig
from dlcli.data.notices import Notice
from dlcli.data.text.byte_pairs import BytePairTokenizer, fit_byte_pairs, whole
from dlcli.errors import DlcliError
from dlcli.task import END, PAD, SPECIAL_TOKENS, START, UNKNOWN, TextInput

TokenIds = npt.NDArray[np.int64]  # (T,)

# The settings that `fit_text` reads.
TEXT_SETTINGS = (
    *("data.text", "data.tokenizer", "data.vocab_size", "data.min_count"),
    *("data.lowercase", "data.max_length"),
)
# The default of max_length: as many tokens as this share of the training texts has at most, but ...
LENGTH_SHARE = 0.99
# ... texts up to this length are never truncated by default: the few tokens saved would not pay for it,
SHORT = 128
# ... and beyond this one a text is truncated: attention costs grow with the square of the length.
LONG = 512

# Thai, Lao, Myanmar, Khmer, kana and ideographs put no space between words: each sign is a token.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_CLOSING = frozenset(".,!?;:)]}%…»”、。，！？；：）」』】")  # no space before these
_OPENING = frozenset("([{«“¿¡「『【（")  # and none after these
_JOINING = frozenset("-/_@#")
_QUOTES = frozenset("\"'")


class Tokenizer(Protocol):
    """A tokenizer with its vocabulary."""

    def ids(self, text: str) -> list[int]:
        """Return all token ids of a text, not truncated."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids that are no PAD, START or END."""


@dataclass(frozen=True)
class EncodedTexts:
    """Texts as ids; how many were ``truncated`` to the largest length, had no token (``empty``), or
    consist mostly of tokens outside the vocabulary (``mostly_unknown``).
    """

    ids: list[TokenIds]
    truncated: int
    empty: int
    mostly_unknown: int

    def notices(self, spec: TextInput) -> list[Notice]:
        """Counts of empty, truncated and mostly unknown texts."""
        total, notices = f"{len(self.ids):,} texts", []
        if self.empty:
            message = f"{self.empty:,} of {total} are empty and count as one unknown word"
            notices.append(Notice(message, "empty-text"))
        if self.truncated:
            message = f"{self.truncated:,} of {total} are longer than {spec.max_length:,} tokens"
            notices.append(Notice(f"{message} and are truncated (--max-length)", "cut-texts"))
        if self.mostly_unknown:
            message = (
                f"{self.mostly_unknown:,} of {total}: most of their words were not seen in training"
            )
            notices.append(Notice(message))
        return notices


def words(text: str, *, lowercase: bool = True) -> list[str]:
    """The words, numbers and punctuation marks of a text, in order.

    A word is a run of letters and digits with their combining marks, apostrophes inside it included;
    a number keeps the points and commas between its digits; any other character that shows is a token
    of its own. The text is first brought to Unicode's composed form (NFC); invisible characters (byte
    order marks, joiners) are left out and a typographic apostrophe is a plain one.
    """
    return _word_pattern().findall(_normal(text, lowercase))


def fit_text(
    texts: Sequence[str], config: DataConfig, *, column: str | None = None, what: str = "texts"
) -> tuple[TextInput, list[Notice]]:
    """The tokenizer, vocabulary and largest length for training texts, and notices.

    Word vocabulary: SPECIAL_TOKENS, then the words that occur ``min_count`` times by falling
    frequency, equal ones by alphabet, ``vocab_size`` entries in all. ``max_length`` unless configured:
    what 99 % of the texts have, but at least 128 (or the longest text) and at most 512.

    Raises: DlcliError when no text has a word, or the library for byte-pair encoding is missing;
    UsageError when the vocabulary is too small for it.
    """
    if config.tokenizer == "bpe":
        spec, counts = fit_byte_pairs(texts, config)
    else:
        spec, counts = _fit_words(texts, config)
    lengths = np.array(counts, dtype=np.int64)
    if not lengths.size or lengths.max() == 0:
        raise DlcliError(
            f"the training {what} hold no word at all: {len(lengths):,} of them, all empty",
            hint="check the text column (data.text)",
        )
    limit = config.max_length or default_length(lengths)
    spec = spec.model_copy(update={"max_length": limit, "column": column})
    return spec, _fit_notices(spec, lengths, config, what)


def default_length(lengths: npt.NDArray[np.int64]) -> int:
    """The default of ``max_length`` for training texts of these token counts (N,)."""
    longest = int(lengths.max())
    usual = int(np.quantile(lengths, LENGTH_SHARE, method="higher"))
    return max(1, min(longest, LONG, max(SHORT, usual)))


def encode(text: str, spec: TextInput) -> TokenIds:
    """Token ids (T,) of a text, T from 1 to ``max_length``; an empty text is one UNKNOWN."""
    return encode_all([text], spec).ids[0]


def encode_all(texts: Sequence[str], spec: TextInput) -> EncodedTexts:
    """Every text as `encode` does it, and count what was truncated or empty."""
    codec = tokenizer_of(spec)
    out, truncated, empty, mostly_unknown = [], 0, 0, 0
    for text in texts:
        ids = codec.ids(text)
        truncated += len(ids) > spec.max_length
        empty += not ids
        mostly_unknown += 2 * ids.count(UNKNOWN) > len(ids)
        out.append(np.array(ids[: spec.max_length] or [UNKNOWN], dtype=np.int64))
    return EncodedTexts(out, truncated, empty, mostly_unknown)


def decode(ids: Sequence[int] | npt.NDArray[Any], spec: TextInput) -> str:
    """The text that ids spell, up to the first END; PAD and START are left out.

    Words are joined with spaces as in print: none before a full stop, none inside brackets.
    """
    content: list[int] = []
    for id_ in (int(i) for i in ids):
        if id_ == END:
            break
        if id_ not in (PAD, START):
            content.append(id_)
    return tokenizer_of(spec).text(content)


@lru_cache(maxsize=8)
def tokenizer_of(spec: TextInput) -> Tokenizer:
    """The tokenizer of a spec. Raises: DlcliError when it is damaged or its library is missing."""
    return BytePairTokenizer(spec) if spec.tokenizer == "bpe" else WordTokenizer(spec)


class WordTokenizer:
    """Words and punctuation marks of a fixed vocabulary."""

    def __init__(self, spec: TextInput) -> None:
        self._spec = spec
        self._known = {token: i for i, token in enumerate(spec.vocabulary)}

    def ids(self, text: str) -> list[int]:
        tokens = words(text, lowercase=self._spec.lowercase)
        return [self._known.get(word, UNKNOWN) for word in tokens]

    def text(self, ids: Sequence[int]) -> str:
        return join_words([self._spec.vocabulary[i] for i in ids])


def join_words(tokens: Sequence[str]) -> str:
    """Words and punctuation marks as running text; quotation marks open and close in turn."""
    out: list[str] = []
    glue = True  # whether the next token follows without a space
    open_quotes: set[str] = set()
    for token in tokens:
        closes = token in _CLOSING or token in open_quotes
        unspaced = bool(out) and _is_unspaced(token) and _is_unspaced(out[-1])
        if not (glue or closes or unspaced or token in _JOINING):
            out.append(" ")
        out.append(token)
        glue = token in _OPENING or token in _JOINING or (token in _QUOTES and not closes)
        if token in _QUOTES:
            open_quotes ^= {token}
    return "".join(out)


def _is_unspaced(token: str) -> bool:
    return re.match(f"[{_UNSPACED}\u3000-\u303f\uff00-\uff65]", token) is not None


def _normal(text: str, lowercase: bool) -> str:
    if text.isascii():
        text = _CONTROLS.sub(" ", text)
    else:
        text = unicodedata.normalize("NFC", whole(text)).replace("\u2019", "'")
        text = _CONTROLS.sub(" ", _INVISIBLE.sub("", text))
    return text.lower() if lowercase else text


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")


@lru_cache(maxsize=1)
def _word_pattern() -> re.Pattern[str]:
    """The pattern whose matches are the tokens. Combining marks are no word characters to `re`."""
    marks = "".join(
        f"{chr(first)}-{chr(last)}" if last > first else chr(first) for first, last in _mark_ranges()
    )
    sign = f"[{_UNSPACED}][{marks}]*"
    letter = f"[^\\W_{_UNSPACED}][{marks}]*"
    number = r"\d+(?:[.,]\d+)+(?![^\W_])"
    return re.compile(f"{number}|(?:{letter})+(?:'(?:{letter})+)*|{sign}|\\S[{marks}]*")


def _mark_ranges() -> list[tuple[int, int]]:
    """Runs of combining marks among Unicode's first planes, as (first, last); some 10 ms."""
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
    seen: Counter[str] = Counter()
    counts = []
    for text in texts:
        tokens = words(text, lowercase=config.lowercase)
        seen.update(tokens)
        counts.append(len(tokens))
    room = config.vocab_size - len(SPECIAL_TOKENS)
    ranked = sorted(seen.items(), key=lambda item: (-item[1], item[0]))
    frequent = [word for word, count in ranked if count >= config.min_count][:room]
    vocabulary = (*SPECIAL_TOKENS, *frequent)
    return TextInput(vocabulary=vocabulary, lowercase=config.lowercase, max_length=1), counts


def _fit_notices(
    spec: TextInput, lengths: npt.NDArray[np.int64], config: DataConfig, what: str
) -> list[Notice]:
    total, truncated = len(lengths), int((lengths > spec.max_length).sum())
    vocabulary = f"{what}: vocabulary of {spec.vocab_size:,} tokens"
    median, longest = int(np.median(lengths)), int(lengths.max())
    notices = [Notice(f"{vocabulary}, median length {median:,}, longest {longest:,}", "vocabulary")]
    if truncated:
        default = (
            f"at most {LONG}" if spec.max_length == LONG else f"what {LENGTH_SHARE:.0%} of them have"
        )
        why = "" if config.max_length else f"; the default is {default}"
        message = (
            f"{truncated:,} of {total:,} training {what} are longer than {spec.max_length:,} tokens"
        )
        notices.append(Notice(f"{message} and are truncated (--max-length{why})", "cut-texts"))
    return notices
