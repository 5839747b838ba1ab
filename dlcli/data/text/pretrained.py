"""Tokenizers that come with pretrained weights, as files of the tokenizers library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlcli.data.text.byte_pairs import import_tokenizers, replace_surrogates
from dlcli.data.text.text_pairs import Encoded, truncated_lengths
from dlcli.errors import DlcliError, UsageError
from dlcli.task import SPECIAL_TOKENS, TextInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from dlcli.config import DataConfig


class FileTokenizer:
    """The tokenizer of pretrained weights, with the file's own steps and special tokens.

    It is that of a `TextInput` whose ``merges`` are its JSON. A special token that is written in a text
    is taken as characters. Raises: DlcliError when the JSON is damaged or the library is missing.
    """

    def __init__(self, spec: TextInput) -> None:
        self._tokenizer = _parse(spec.merges or "", "the card's tokenizer")
        if _vocabulary(self._tokenizer) != spec.vocabulary:
            raise DlcliError("the card's tokenizer does not match its vocabulary")
        self._tokenizer.encode_special_tokens = True
        self.special: tuple[int, ...] = tuple(self._tokenizer.encode("").ids)
        self.pair_special = int(self._tokenizer.num_special_tokens_to_add(is_pair=True))

    def encode(self, text: str) -> list[int]:
        # One text at a time: after its parallel encoding the library warns at every fork.
        ids: list[int] = self._tokenizer.encode(replace_surrogates(text)).ids
        return ids

    def encode_pair(self, first: str, second: str, limit: int) -> Encoded:
        one, other = (
            self._tokenizer.encode(replace_surrogates(text), add_special_tokens=False)
            for text in (first, second)
        )
        whole = pair = self._tokenizer.post_process(one, other)
        if len(whole) > limit:
            lengths = truncated_lengths(len(one), len(other), limit - self.pair_special)
            one.truncate(lengths[0])
            other.truncate(lengths[1])
            pair = self._tokenizer.post_process(one, other)
        return Encoded(pair.ids, pair.type_ids, whole.ids)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def read_tokenizer(text: str, source: object, *, longest: int) -> TextInput:
    """The input of a ``tokenizer.json`` of the tokenizers library, for at most ``longest`` tokens.

    Its truncation and padding are left out: their lengths are those of somebody's other data.
    Raises: DlcliError naming ``source`` when it cannot be read, or the library is missing.
    """
    tokenizer = _parse(text, f"the tokenizer {source}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = _vocabulary(tokenizer)
    if len(vocabulary) < len(SPECIAL_TOKENS):
        raise DlcliError(f"the tokenizer {source} has a vocabulary of {len(vocabulary)} tokens")
    merges = tokenizer.to_str()
    unknown = tokenizer.token_to_id(_unknown_token(merges))
    return TextInput(
        tokenizer="file",
        vocabulary=vocabulary,
        merges=merges,
        # A byte-level vocabulary has no unknown token: then no text has that id.
        unknown=len(vocabulary) if unknown is None else unknown,
        max_length=longest,
    )


def check_pretrained(spec: TextInput, config: DataConfig) -> None:
    """Raises: UsageError for settings of a vocabulary, or a length beyond the model's positions."""
    names = ("tokenizer", "vocab_size", "min_count", "lowercase")
    default = type(config)()
    for name in names:
        if getattr(config, name) != getattr(default, name):
            raise UsageError(
                f"data.{name} = {getattr(config, name)} is for vocabularies that are fitted, and the "
                "weights have a tokenizer of their own",
                hint="leave it out",
            )
    if (config.max_length or 0) > spec.max_length:
        raise UsageError(
            f"--max-length {config.max_length}: the model has {spec.max_length:,} positions",
            hint="longer texts are truncated",
        )


def _unknown_token(merges: str) -> str:
    model: dict[str, Any] = json.loads(merges)["model"]
    if isinstance(model.get("vocab"), list) and model.get("unk_id") is not None:  # Unigram
        return str(model["vocab"][model["unk_id"]][0])
    return str(model.get("unk_token") or "<unk>")


def _vocabulary(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The tokens by id; ids without a token are empty strings."""
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    tokens = [""] * (max(ids.values(), default=-1) + 1)
    for token, id_ in ids.items():
        tokens[id_] = token
    return tuple(tokens)


def _parse(text: str, what: str) -> Tokenizer:
    tokenizers = import_tokenizers("the tokenizer of pretrained weights")
    try:
        tokenizer: Tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as exc:  # the library raises no subclass
        raise DlcliError(f"{what} cannot be read: {exc}") from exc
    return tokenizer
