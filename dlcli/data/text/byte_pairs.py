"""Byte-level byte-pair encoding with the tokenizers library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlcli.data.text.text_pairs import Encoded, separated
from dlcli.errors import DlcliError, UsageError
from dlcli.task import SPECIAL_TOKENS, TextInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from dlcli.config import DataConfig

_ALPHABET_SIZE = 256  # bytes


class BytePairTokenizer:
    """The byte-pair tokenizer of a `TextInput`, whose ``merges`` are its JSON.

    Raises: DlcliError when it is damaged or the library is missing.
    """

    special: tuple[int, ...] = ()
    pair_special = 1

    def __init__(self, spec: TextInput) -> None:
        tokenizers = import_tokenizers("byte-pair encoding", ", or --tokenizer word")
        try:
            self._tokenizer: Tokenizer = tokenizers.Tokenizer.from_str(spec.merges or "")
        except Exception as exc:  # the library raises no subclass
            raise DlcliError(f"the card's byte-pair tokenizer cannot be read: {exc}") from exc
        vocabulary = self._tokenizer.get_vocab()
        if vocabulary != {token: i for i, token in enumerate(spec.vocabulary)}:
            raise DlcliError("the card's byte-pair tokenizer does not match its vocabulary")
        # "</s>" in a text is four characters, not the special token.
        self._tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        # One text at a time: after its parallel encoding the library warns at every fork.
        ids: list[int] = self._tokenizer.encode(replace_surrogates(text).strip()).ids
        return ids

    def encode_pair(self, first: str, second: str, limit: int) -> Encoded:
        return separated(self.encode(first), self.encode(second), limit)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False).strip()


def fit_byte_pairs(texts: Sequence[str], config: DataConfig) -> tuple[TextInput, list[int]]:
    """Fit byte-level BPE (arXiv 1508.07909) on training texts; also return their token counts.

    Raises: UsageError when ``vocab_size`` is too small, DlcliError when the library is missing.
    """
    min_vocab_size = _ALPHABET_SIZE + len(SPECIAL_TOKENS)
    if config.vocab_size < min_vocab_size:
        raise UsageError(
            f"data.vocab_size = {config.vocab_size} is too small for byte-pair encoding",
            hint=f"use at least {min_vocab_size}, or --tokenizer word",
        )
    tk = import_tokenizers("byte-pair encoding", ", or --tokenizer word")
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
    tokenizer.train_from_iterator([replace_surrogates(text).strip() for text in texts], trainer)
    vocabulary = tokenizer.get_vocab()
    spec = TextInput(
        tokenizer="bpe",
        vocabulary=tuple(sorted(vocabulary, key=lambda token: vocabulary[token])),
        merges=tokenizer.to_str(),
        lowercase=config.lowercase,
        max_length=1,
    )
    fitted = BytePairTokenizer(spec)
    return spec, [len(fitted.encode(text)) for text in texts]


def import_tokenizers(what: str, otherwise: str = "") -> Any:
    """Import the tokenizers library. Raises: DlcliError saying that ``what`` needs it."""
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ModuleNotFoundError as exc:
        raise DlcliError(
            f"{what} needs the tokenizers library, which is not installed",
            hint=f'pip install "dlcli[text]"{otherwise}',
        ) from exc
    return tokenizers


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates (from bytes that are not UTF-8), which cannot be encoded."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
