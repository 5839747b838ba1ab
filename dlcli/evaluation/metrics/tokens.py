"""Next-token metrics of sequence models. NumPy only.

Every token but PAD counts the same, whichever text it is in. BLEU is computed elsewhere
(`dlcli.evaluation.translation`): it needs decoded texts.
"""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Inputs, SeriesRows, Targets
from dlcli.evaluation.metrics.base import Counts, EvalResult, Floats, Outputs, PerSample, exact_sum
from dlcli.evaluation.metrics.classification import cross_entropy, predicted_classes
from dlcli.task import PAD

# Logits converted to float64 at a time: 32 MiB, where a batch of texts may be gigabytes.
CHUNK = 2**22


class TokenCounts(Counts):
    """Sums over tokens, stored for each text."""

    def __init__(self) -> None:
        self._rows = PerSample("loss", "correct", "tokens")

    @property
    def samples(self) -> int:
        """The number of texts counted."""
        return len(self._rows)

    def update(
        self,
        outputs: Outputs,
        targets: Targets,
        inputs: Inputs | None = None,
        series: SeriesRows | None = None,
    ) -> None:
        """Add a batch: logits (n, T, V), the next tokens (n, T), PAD after the end of each text.

        Either may be longer than the other by steps that are all PAD. Raises: ValueError for a token
        other than PAD without logits.
        """
        if not len(targets):
            return
        length = outputs.shape[1]
        if (targets[:, length:] != PAD).any():
            raise ValueError(f"targets of {targets.shape[1]} tokens, but logits of {length}")
        targets = targets[:, :length]
        losses, correct = np.zeros(targets.shape), np.zeros(targets.shape, dtype=bool)
        non_finite = np.zeros(len(targets), dtype=bool)
        texts, steps = np.nonzero(targets != PAD)
        size = max(1, CHUNK // outputs.shape[2])
        for start in range(0, len(texts), size):
            chunk = texts[start : start + size], steps[start : start + size]
            logits, tokens = outputs[chunk], targets[chunk]
            predicted, valid = predicted_classes(logits)
            losses[chunk] = cross_entropy(logits, tokens)
            correct[chunk] = valid & (predicted == tokens)
            non_finite[chunk[0][~np.isfinite(logits).all(axis=1)]] = True
        self.non_finite += int(non_finite.sum())
        self._rows.add(losses.sum(axis=1), correct.sum(axis=1), (targets != PAD).sum(axis=1))

    def merge(self, other: Counts) -> None:
        """Add the counts of ``other`` on other texts."""
        assert isinstance(other, TokenCounts)
        self.non_finite += other.non_finite
        self._rows.extend(other._rows)

    def metrics(self) -> dict[str, float]:
        """Loss in nats per token and token accuracy; NaN without tokens."""
        tokens = exact_sum(self._rows.column("tokens")) or float("nan")
        return {
            "loss": exact_sum(self._rows.column("loss")) / tokens,
            "accuracy": exact_sum(self._rows.column("correct")) / tokens,
        }

    def scores(self, metric: str) -> Floats | None:
        """Losses or correct tokens of the texts, (N,), over the mean number of tokens."""
        tokens = exact_sum(self._rows.column("tokens")) or float("nan")
        column = self._rows.column("correct" if metric == "accuracy" else "loss")
        return column * (len(self._rows) / tokens)

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            task="seq2seq",
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
        )
