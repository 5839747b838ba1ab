"""Byte-pair encoding through the tokenizers library, over UTF-8 bytes: nothing in a text is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlcli.config import DataConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.task import SPECIAL_TOKENS, TextInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTES = 256  # the alphabet


class BytePairTokenizer:
    """The tokenizer that ``merges`` of a `TextInput` describes.

    Raises: DlcliError when it is damaged or the library is missing.
    """

    def __init__(self, spec: TextInput) -> None:
        tokenizers = _library()
        try:
            self._tokenizer: Tokenizer = tokenizers.Tokenizer.from_str(spec.merges or "")
        except Exception as exc:  # the library raises nothing more special
            raise DlcliError(f"the card's byte-pair tokenizer cannot be read: {exc}") from exc
        known = self._tokenizer.get_vocab()
        if known != {token: i for i, token in enumerate(spec.vocabulary)}:
            raise DlcliError("the card's byte-pair tokenizer and its vocabulary disagree")
        # A text that holds "</s>" means these four characters, not the end.
        self._tokenizer.encode_special_tokens = True

    def ids(self, text: str) -> list[int]:
        # One at a time: the library's threads would make every later fork print a warning.
        ids: list[int] = self._tokenizer.encode(whole(text).strip()).ids
        return ids

    def text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False).strip()


def fit_byte_pairs(texts: Sequence[str], config: DataConfig) -> tuple[TextInput, list[int]]:
    """A tokenizer fitted on training texts (arXiv 1508.07909, over bytes), and their token counts.

    Raises: UsageError when ``vocab_size`` cannot hold the bytes, DlcliError when the library is missing.
    """
    least = _BYTES + len(SPECIAL_TOKENS)
    if config.vocab_size < least:
        raise UsageError(
            f"data.vocab_size = {config.vocab_size} is too small for byte-pair encoding",
            hint=f"at least {least}, better some thousands; or --tokenizer word",
        )
    tk = _library()
    tokenizer = tk.Tokenizer(tk.models.BPE())
    steps = [tk.normalizers.NFC(), *([tk.normalizers.Lowercase()] if config.lowercase else [])]
    tokenizer.normalizer = tk.normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tk.decoders.ByteLevel()
    trainer = tk.trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=max(2, config.min_count),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(tk.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([whole(text).strip() for text in texts], trainer)
    known = tokenizer.get_vocab()
    spec = TextInput(
        tokenizer="bpe",
        vocabulary=tuple(sorted(known, key=lambda token: known[token])),
        merges=tokenizer.to_str(),
        lowercase=config.lowercase,
        max_length=1,
    )
    codec = BytePairTokenizer(spec)
    return spec, [len(codec.ids(text)) for text in texts]


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ModuleNotFoundError as exc:
        raise DlcliError(
            "byte-pair encoding needs the tokenizers library, which is not installed",
            hint='pip install "dlcli[text]", or --tokenizer word',
        ) from exc
    return tokenizers


def whole(text: str) -> str:
    """``text`` without lone surrogates (bytes that were no UTF-8), which no encoder takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
