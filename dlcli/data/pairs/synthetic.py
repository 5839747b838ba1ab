"""Synthetic pairs: an input of typical size, and random tokens."""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Inputs
from dlcli.data.kinds import ModelNeeds
from dlcli.data.text import synthetic
from dlcli.data.text.synthetic import REFERENCE_LENGTH, REFERENCE_VOCAB_SIZE, random_tokens
from dlcli.task import START, PairsInput

REFERENCE_WORDS = f"{REFERENCE_VOCAB_SIZE:,} words on each side, texts of {REFERENCE_LENGTH}"


def reference_input(needs: ModelNeeds) -> PairsInput:
    """Return source and target inputs of typical size."""
    text = synthetic.reference_input(needs)
    return PairsInput(source=text, target=text)


def noise(spec: PairsInput, count: int, length: int | None, rng: np.random.Generator) -> Inputs:
    """Return random source ids (n, S), their lengths (n,), and prefixes (n, T) that begin with START."""
    prefix, _ = random_tokens(spec.target, count, length, rng)
    prefix[:, 0] = START
    return (*random_tokens(spec.source, count, length, rng), prefix)
