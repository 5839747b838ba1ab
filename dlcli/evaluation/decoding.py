"""From a sequence model's next-token logits to whole sequences: greedy and beam search; and BLEU.

NumPy only, over a function, so that every artifact decodes alike, whether torch or ONNX Runtime runs
it. n sources, S their padded length, t tokens written so far (START first), V the target vocabulary.
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

# What is never written: PAD fills batches, START opens every prefix.
_BANNED = (PAD, START)


@dataclass(frozen=True)
class Written:
    """One decoded sequence: its ``ids`` without START and END, the ``log_prob`` of its tokens (END
    included where it was written), and whether it ``ended`` before the length limit.
    """

    ids: tuple[int, ...]
    log_prob: float
    ended: bool

    def score(self, length_penalty: float) -> float:
        """What beam search ranks by: the log probability over `penalty` of its length."""
        return self.log_prob / penalty(len(self.ids) + self.ended, length_penalty)


def penalty(length: int, strength: float) -> float:
    """((5 + length) / 6) ** strength: 1 for strength 0, so that longer sequences are not favoured.

    Wu et al., "Google's Neural Machine Translation System", arXiv:1609.08144, equation 14.
    """
    return float(((5 + length) / 6) ** strength)


def next_of(answer: Callable[[Ids, Ids, Ids], npt.NDArray[np.floating]]) -> NextLogits:
    """The step function of a model that answers with logits (n, t, V) of the whole prefix."""
    return lambda source, lengths, prefix: answer(source, lengths, prefix)[:, -1]


def decode(
    step: NextLogits,
    source: Ids,
    lengths: Ids,
    *,
    max_length: int,
    beam: int = 1,
    length_penalty: float = 1.0,
    batch_size: int = 64,
) -> list[Written]:
    """The best sequence for each source (N, S): greedy for a ``beam`` of 1.

    ``max_length`` (at least 1) counts tokens, END included. At most ``batch_size`` prefixes are asked
    about at once. A batch of sources is cut to its longest.
    """
    found: list[Written] = []
    together = max(1, batch_size // beam)
    for start in range(0, len(source), together):
        part = slice(start, start + together)
        rows, sizes = source[part, : max(1, int(lengths[part].max()))], lengths[part]
        if beam == 1:
            found += greedy(step, rows, sizes, max_length=max_length)
        else:
            found += [
                best[0]
                for best in beam_search(
                    step, rows, sizes, max_length=max_length, beam=beam, length_penalty=length_penalty
                )
            ]
    return found


def greedy(step: NextLogits, source: Ids, lengths: Ids, *, max_length: int) -> list[Written]:
    """The likeliest token at each step, until END or ``max_length`` tokens. One result a source."""
    n = len(source)
    prefix = np.full((n, 1), START, dtype=np.int64)
    log_prob = np.zeros(n)
    ended = np.zeros(n, dtype=np.bool_)
    done: dict[int, Written] = {}
    alive = np.arange(n)
    for _ in range(max_length):
        scores = _log_probs(step(source[alive], lengths[alive], prefix))
        token = scores.argmax(1)
        log_prob = log_prob + scores[np.arange(len(alive)), token]
        ended = token == END
        for row in np.flatnonzero(ended).tolist():
            done[int(alive[row])] = Written(tuple(prefix[row, 1:].tolist()), float(log_prob[row]), True)
        # Rows that are done leave the batch, so that the rest is not slowed down by them.
        prefix = np.concatenate([prefix, token[:, None]], axis=1)[~ended]
        alive, log_prob = alive[~ended], log_prob[~ended]
        if not len(alive):
            break
    for row, index in enumerate(alive.tolist()):
        done[index] = Written(tuple(prefix[row, 1:].tolist()), float(log_prob[row]), False)
    return [done[index] for index in range(n)]


@dataclass
class _Beam:
    """The search for one source: open prefixes with their log probabilities, and ended sequences."""

    prefixes: Ids  # (open, t)
    log_probs: Scores  # (open,), best first
    ended: list[Written]

    def extend(self, scores: Scores, width: int) -> None:
        """Keep the ``width`` likeliest continuations (scores (open, V)); those with END are done."""
        vocabulary = scores.shape[1]
        total = (self.log_probs[:, None] + scores).reshape(-1)
        # Stable, so that equal scores fall as they do in argmax: to the first.
        best = np.argsort(-total, kind="stable")[: width - len(self.ended)]
        best = best[np.isfinite(total[best])]
        parent, token = best // vocabulary, best % vocabulary
        for row, at in zip(parent[token == END], best[token == END], strict=True):
            self.ended.append(Written(tuple(self.prefixes[row, 1:].tolist()), float(total[at]), True))
        going = token != END
        self.prefixes = np.concatenate([self.prefixes[parent[going]], token[going][:, None]], axis=1)
        self.log_probs = total[best[going]]

    def finished(self, length_penalty: float, max_length: int) -> bool:
        """Whether no open prefix can still beat the best ended sequence."""
        if not len(self.log_probs):
            return True
        if not self.ended:
            return False
        # A log probability only falls from here on; the largest divisor is the kindest.
        longest = max_length if length_penalty > 0 else self.prefixes.shape[1]
        hope = float(self.log_probs.max()) / penalty(longest, length_penalty)
        return max(w.score(length_penalty) for w in self.ended) >= hope

    def results(self, length_penalty: float, max_length: int) -> list[Written]:
        """Best first: what ended, and what was still open at the length limit.

        The latter count too: an unlikely END must not win over a text that is merely too long.
        """
        found = list(self.ended)
        if self.prefixes.shape[1] > max_length:
            found += [
                Written(tuple(prefix[1:].tolist()), float(log_prob), False)
                for prefix, log_prob in zip(self.prefixes, self.log_probs, strict=True)
            ]
        return sorted(found, key=lambda written: -written.score(length_penalty))


def beam_search(
    step: NextLogits,
    source: Ids,
    lengths: Ids,
    *,
    max_length: int,
    beam: int,
    length_penalty: float = 1.0,
) -> list[list[Written]]:
    """The sequences found for each source, best first, with ``beam`` candidates kept at each step.

    An ended sequence takes its candidate's place, so a source has at most ``beam`` results and a beam
    of 1 is `greedy`. The search for a source stops early only when nothing open can win any more.
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


def corpus_bleu(written: Sequence[str], references: Sequence[str]) -> float:
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
    if not written:
        return 0.0
    return float(BLEU().corpus_score(list(written), [list(references)]).score)


def _log_probs(logits: npt.NDArray[np.floating]) -> Scores:
    """Log softmax over what may be written; minus infinity for the rest."""
    scores = logits.astype(np.float64)
    scores[:, list(_BANNED)] = -np.inf
    top = scores.max(1, keepdims=True)
    found: Scores = scores - top - np.log(np.exp(scores - top).sum(1, keepdims=True))
    return found
