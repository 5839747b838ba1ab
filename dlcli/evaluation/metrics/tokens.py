"""Metrics of the next token, for models that write a text. NumPy only.

Every token but PAD counts the same, whichever text it is in. BLEU is no business of these counts: it
needs decoded texts.
"""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Inputs, Targets
from dlcli.evaluation.metrics.base import Counts, EvalResult, Floats, Outputs, PerSample, exact_sum
from dlcli.evaluation.metrics.classification import cross_entropy, predicted_classes
from dlcli.task import PAD

# Logits widened to float64 at a time: 32 MiB, where a batch of texts may be gigabytes.
CHUNK = 2**22


class TokenCounts(Counts):
    """Sums over tokens, kept for each text."""

    scored = "loss"

    def __init__(self) -> None:
        self._rows = PerSample("loss", "hits", "tokens")

    @property
    def samples(self) -> int:
        """How many texts were counted."""
        return len(self._rows)

    def update(self, outputs: Outputs, targets: Targets, inputs: Inputs | None = None) -> None:
        """Count a batch: logits (n, T, V), the next tokens (n, T), PAD behind each text's end.

        Either may be longer than the other by steps that are all PAD. Raises: ValueError when real
        tokens have no logits.
        """
        if not len(targets):
            return
        steps = outputs.shape[1]
        if (targets[:, steps:] != PAD).any():
            raise ValueError(f"targets of {targets.shape[1]} tokens, but logits of {steps}")
        targets = targets[:, :steps]
        losses, hits = np.zeros(targets.shape), np.zeros(targets.shape, dtype=bool)
        broken = np.zeros(len(targets), dtype=bool)
        texts, places = np.nonzero(targets != PAD)
        size = max(1, CHUNK // outputs.shape[2])
        for start in range(0, len(texts), size):
            here = texts[start : start + size], places[start : start + size]
            logits, tokens = outputs[here], targets[here]
            predicted, answered = predicted_classes(logits)
            losses[here] = cross_entropy(logits, tokens)
            hits[here] = answered & (predicted == tokens)
            broken[here[0][~np.isfinite(logits).all(axis=1)]] = True
        self.non_finite += int(broken.sum())
        self._rows.add(losses.sum(axis=1), hits.sum(axis=1), (targets != PAD).sum(axis=1))

    def merge(self, other: Counts) -> None:
        """Add what ``other`` has counted on other texts."""
        assert isinstance(other, TokenCounts)
        self.non_finite += other.non_finite
        self._rows.extend(other._rows)

    def metrics(self) -> dict[str, float]:
        """Loss in nats a token and the share of tokens that are right; NaN where there was no token."""
        tokens = exact_sum(self._rows.column("tokens")) or float("nan")
        return {
            "loss": exact_sum(self._rows.column("loss")) / tokens,
            "accuracy": exact_sum(self._rows.column("hits")) / tokens,
        }

    def scores(self) -> Floats:
        """Losses of the texts, (N,), over the mean number of tokens: their mean is the loss."""
        tokens = exact_sum(self._rows.column("tokens")) or float("nan")
        return self._rows.column("loss") * (len(self._rows) / tokens)

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """Everything `eval` reports."""
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            task="seq2seq",
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
        )
