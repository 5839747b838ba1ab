"""Synthetic texts: an input of typical size, and random tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs, random_lengths
from dlcli.data.kinds import ModelNeeds
from dlcli.task import SPECIAL_TOKENS, TextInput

REFERENCE_VOCAB_SIZE, REFERENCE_LENGTH = 10_000, 64
REFERENCE_WORDS = f"{REFERENCE_VOCAB_SIZE:,} words, texts of {REFERENCE_LENGTH}"


def reference_input(needs: ModelNeeds) -> TextInput:
    """Return an input of 64 tokens from a vocabulary of 10,000, or from that of weights."""
    if needs.text is not None:
        length = min(REFERENCE_LENGTH, needs.text.max_length)
        return needs.text.model_copy(update={"max_length": length, "token_types": False})
    words = tuple(f"word{i}" for i in range(REFERENCE_VOCAB_SIZE - len(SPECIAL_TOKENS)))
    return TextInput(vocabulary=(*SPECIAL_TOKENS, *words), max_length=REFERENCE_LENGTH)


def noise(spec: TextInput, count: int, length: int | None, rng: np.random.Generator) -> Inputs:
    """Return random token ids (n, T), padded, their lengths (n,), and token types (n, T) where used."""
    tokens, lengths = random_tokens(spec, count, length, rng)
    if not spec.token_types:
        return tokens, lengths
    steps = np.arange(tokens.shape[1])
    second = (steps >= rng.integers(0, lengths)[:, None]) & (steps < lengths[:, None])
    return tokens, lengths, second.astype(np.int64)


def random_tokens(
    spec: TextInput, count: int, length: int | None, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return token ids (n, T), padded with PAD, and their lengths (n,)."""
    lengths = random_lengths(rng, count, min(length or 32, spec.max_length))
    low = min(len(SPECIAL_TOKENS), spec.vocab_size - 1)
    tokens = rng.integers(low, spec.vocab_size, (count, int(lengths.max())))
    tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] = 0
    return tokens, lengths
