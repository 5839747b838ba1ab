"""Text inputs without data: one of typical size, and random tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs, random_lengths
from dlcli.data.kinds import ModelNeeds
from dlcli.task import SPECIAL_TOKENS, TextInput

VOCABULARY, TOKENS = 10_000, 64
REFERENCE_WORDS = f"{VOCABULARY:,} words, texts of {TOKENS}"


def reference_input(needs: ModelNeeds) -> TextInput:
    """Texts of 64 words, of 10,000 that are known."""
    words = tuple(f"word{i}" for i in range(VOCABULARY - len(SPECIAL_TOKENS)))
    return TextInput(vocabulary=(*SPECIAL_TOKENS, *words), max_length=TOKENS)


def noise(spec: TextInput, count: int, length: int | None, rng: np.random.Generator) -> Inputs:
    """Random token ids (n, T), padded, and their lengths (n,)."""
    return random_tokens(spec, count, length, rng)


def random_tokens(
    spec: TextInput, count: int, length: int | None, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids (n, T), padded with PAD, and their lengths (n,)."""
    lengths = random_lengths(rng, count, min(length or 32, spec.max_length))
    low = min(len(SPECIAL_TOKENS), spec.vocab_size - 1)
    tokens = rng.integers(low, spec.vocab_size, (count, int(lengths.max())))
    tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] = 0
    return tokens, lengths
