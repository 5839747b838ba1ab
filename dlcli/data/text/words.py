"""Words and punctuation marks: how texts are split into them, and joined again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from dlcli.data.text.byte_pairs import replace_surrogates
from dlcli.data.text.scripts import UNSPACED_SCRIPTS
from dlcli.data.text.text_pairs import Encoded, separated
from dlcli.task import UNKNOWN, TextInput

_CLOSING_MARKS = frozenset(".,!?;:)]}%…»”、。，！？；：）」』】")  # without a space before
_OPENING_MARKS = frozenset("([{«“¿¡「『【（")  # without a space after
_JOINING_MARKS = frozenset("-/_@#")
_QUOTES = frozenset("\"'")


def split_words(text: str, *, lowercase: bool = True) -> list[str]:
    """Split a text into words, numbers and punctuation marks.

    A word is a run of letters and digits with their combining marks, apostrophes inside it included;
    a number keeps the points and commas between its digits; any other visible character is a token
    of its own. The text is first normalized to NFC; invisible characters (byte order marks, joiners)
    are removed and typographic apostrophes replaced.
    """
    return _word_pattern().findall(_normalize(text, lowercase))


class WordTokenizer:
    """Word tokenizer with a fixed vocabulary."""

    special: tuple[int, ...] = ()
    pair_special = 1

    def __init__(self, spec: TextInput) -> None:
        self._spec = spec
        self._token_ids = {token: i for i, token in enumerate(spec.vocabulary)}

    def encode_pair(self, first: str, second: str, limit: int) -> Encoded:
        return separated(self.encode(first), self.encode(second), limit)

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
