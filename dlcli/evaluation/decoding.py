"""Greedy and beam search decoding of a sequence model, and BLEU.

NumPy only, over a function that gives logits, so every artifact decodes alike, whether torch or ONNX
Runtime runs it. n sources, S their padded length, t tokens of the prefix (START first), V the target
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcli.errors import DlcliError
from dlcli.task import END, PAD, START

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
# (source (n, S), lengths (n,), prefix (n, t)) -> logits of the next token (n, V)
NextLogits = Callable[[Ids, Ids, Ids], npt.NDArray[np.floating]]

# Never generated: PAD fills batches, START begins every prefix.
_BANNED = (PAD, START)


@dataclass(frozen=True)
class Hypothesis:
    """A decoded sequence.

    ``ids`` are without START and END; ``log_prob`` is the sum over its tokens, END included where it
    was generated; ``ended``: whether it was, before the length limit.
    """

    ids: tuple[int, ...]
    log_prob: float
    ended: bool

    def score(self, length_penalty: float) -> float:
        """The score that beam search ranks by: log probability divided by `penalty` of the length."""
        return self.log_prob / penalty(len(self.ids) + self.ended, length_penalty)


def penalty(length: int, strength: float) -> float:
    """((5 + length) / 6) ** strength: the length penalty; 1 for a strength of 0.

    Wu et al., "Google's Neural Machine Translation System", arXiv:1609.08144, equation 14.
    """
    return float(((5 + length) / 6) ** strength)


def next_logits(predict: Callable[[Ids, Ids, Ids], npt.NDArray[np.floating]]) -> NextLogits:
    """The step function of a model whose output is the logits (n, t, V) of the whole prefix."""
    return lambda source, lengths, prefix: predict(source, lengths, prefix)[:, -1]


def decode(
    step: NextLogits,
    source: Ids,
    lengths: Ids,
    *,
    max_length: int,
    beam: int = 1,
    length_penalty: float = 1.0,
    batch_size: int = 64,
) -> list[Hypothesis]:
    """The best sequence for each source (N, S): greedy for a ``beam`` of 1.

    ``max_length`` (at least 1) counts tokens, END included. The model runs on at most
    ``batch_size`` prefixes at once. A batch of sources is trimmed to its longest.
    """
    hypotheses: list[Hypothesis] = []
    together = max(1, batch_size // beam)
    for start in range(0, len(source), together):
        part = slice(start, start + together)
        rows, sizes = source[part, : max(1, int(lengths[part].max()))], lengths[part]
        if beam == 1:
            hypotheses += greedy(step, rows, sizes, max_length=max_length)
        else:
            hypotheses += [
                best[0]
                for best in beam_search(
                    step, rows, sizes, max_length=max_length, beam=beam, length_penalty=length_penalty
                )
            ]
    return hypotheses


def greedy(step: NextLogits, source: Ids, lengths: Ids, *, max_length: int) -> list[Hypothesis]:
    """The likeliest token at each step, until END or ``max_length`` tokens: one hypothesis each."""
    n = len(source)
    prefix = np.full((n, 1), START, dtype=np.int64)
    log_prob = np.zeros(n)
    ended = np.zeros(n, dtype=np.bool_)
    done: dict[int, Hypothesis] = {}
    alive = np.arange(n)
    for _ in range(max_length):
        scores = _log_probs(step(source[alive], lengths[alive], prefix))
        token = scores.argmax(1)
        log_prob = log_prob + scores[np.arange(len(alive)), token]
        ended = token == END
        for row in np.flatnonzero(ended).tolist():
            done[int(alive[row])] = Hypothesis(
                tuple(prefix[row, 1:].tolist()), float(log_prob[row]), True
            )
        # Finished rows leave the batch.
        prefix = np.concatenate([prefix, token[:, None]], axis=1)[~ended]
        alive, log_prob = alive[~ended], log_prob[~ended]
        if not len(alive):
            break
    for row, index in enumerate(alive.tolist()):
        done[index] = Hypothesis(tuple(prefix[row, 1:].tolist()), float(log_prob[row]), False)
    return [done[index] for index in range(n)]


@dataclass
class _Beam:
    """The beam of one source: open prefixes with their log probabilities, and ended hypotheses."""

    prefixes: Ids  # (open, t)
    log_probs: Scores  # (open,), best first
    ended: list[Hypothesis]

    def extend(self, scores: Scores, width: int) -> None:
        """Keep the ``width`` likeliest continuations (scores (open, V)); those with END have ended."""
        vocabulary = scores.shape[1]
        total = (self.log_probs[:, None] + scores).reshape(-1)
        # Stable, so that the first of equal scores wins, as in argmax.
        best = np.argsort(-total, kind="stable")[: width - len(self.ended)]
        best = best[np.isfinite(total[best])]
        parent, token = best // vocabulary, best % vocabulary
        for row, at in zip(parent[token == END], best[token == END], strict=True):
            self.ended.append(Hypothesis(tuple(self.prefixes[row, 1:].tolist()), float(total[at]), True))
        going = token != END
        self.prefixes = np.concatenate([self.prefixes[parent[going]], token[going][:, None]], axis=1)
        self.log_probs = total[best[going]]

    def finished(self, length_penalty: float, max_length: int) -> bool:
        """Whether no open prefix can still beat the best ended hypothesis."""
        if not len(self.log_probs):
            return True
        if not self.ended:
            return False
        # Log probabilities only fall from here on; the largest divisor gives the upper bound.
        longest = max_length if length_penalty > 0 else self.prefixes.shape[1]
        bound = float(self.log_probs.max()) / penalty(longest, length_penalty)
        return max(w.score(length_penalty) for w in self.ended) >= bound

    def results(self, length_penalty: float, max_length: int) -> list[Hypothesis]:
        """Hypotheses, best first: those that ended, and those still open at the length limit.

        The latter count too: an unlikely END must not beat a text that is merely too long.
        """
        hypotheses = list(self.ended)
        if self.prefixes.shape[1] > max_length:
            hypotheses += [
                Hypothesis(tuple(prefix[1:].tolist()), float(log_prob), False)
                for prefix, log_prob in zip(self.prefixes, self.log_probs, strict=True)
            ]
        return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score(length_penalty))


def beam_search(
    step: NextLogits,
    source: Ids,
    lengths: Ids,
    *,
    max_length: int,
    beam: int,
    length_penalty: float = 1.0,
) -> list[list[Hypothesis]]:
    """The hypotheses of each source, best first; ``beam`` candidates are kept at each step.

    An ended hypothesis keeps its place in the beam, so a source has at most ``beam`` results and a beam
    of 1 is `greedy`. The search for a source stops early once no open candidate can win.
    """
    beams = [_Beam(np.full((1, 1), START, dtype=np.int64), np.zeros(1), []) for _ in range(len(source))]
    for _ in range(max_length):
        going = [i for i, b in enumerate(beams) if not b.finished(length_penalty, max_length)]
        if not going:
            break
        sizes = [len(beams[i].log_probs) for i in going]
        rows = np.repeat(np.array(going), sizes)
        prefixes = np.concatenate([beams[i].prefixes for i in going])
        scores = _log_probs(step(source[rows], lengths[rows], prefixes))
        for i, part in zip(going, np.split(scores, np.cumsum(sizes)[:-1]), strict=True):
            beams[i].extend(part, beam)
    return [b.results(length_penalty, max_length) for b in beams]


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """BLEU (0 to 100) of a corpus against one reference each, by sacrebleu's default (13a) tokens.

    Post, "A Call for Clarity in Reporting BLEU Scores", arXiv:1804.08771. Raises: DlcliError when
    sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as exc:
        raise DlcliError(
            "BLEU needs sacrebleu, which is not installed", hint='pip install "dlcli[translation]"'
        ) from exc
    if not hypotheses:
        return 0.0
    return float(BLEU().corpus_score(list(hypotheses), [list(references)]).score)


def _log_probs(logits: npt.NDArray[np.floating]) -> Scores:
    """Log softmax over the tokens that may be generated; minus infinity for the rest."""
    scores = logits.astype(np.float64)
    scores[:, list(_BANNED)] = -np.inf
    top = scores.max(1, keepdims=True)
    log_probs: Scores = scores - top - np.log(np.exp(scores - top).sum(1, keepdims=True))
    return log_probs
