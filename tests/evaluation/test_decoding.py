"""Greedy and beam search over a table of probabilities: each prefix says what may come next."""

from __future__ import annotations

import builtins
import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

from dlcli.errors import DlcliError
from dlcli.evaluation.decoding import beam_search, corpus_bleu, decode, greedy, next_logits, penalty
from dlcli.task import END, PAD, START

V = 7  # PAD, UNKNOWN, START, END and three words
A, B, C = 4, 5, 6
Tree = dict[tuple[int, ...], dict[int, float]]


def ids(*rows: int) -> npt.NDArray[np.int64]:
    """Sources of one token each."""
    return np.array(rows, dtype=np.int64)[:, None]


def ones(n: int) -> npt.NDArray[np.int64]:
    return np.ones(n, dtype=np.int64)


class Table:
    """Next-token logits from a tree of probabilities; what it does not hold ends."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.asked = tree, []  # type: tuple[Tree, list[int]]

    def __call__(self, source, lengths, prefix):  # type: ignore[no-untyped-def]
        assert len(source) == len(lengths) == len(prefix)
        assert (prefix[:, 0] == START).all()
        self.asked.append(len(prefix))
        logits = np.full((len(prefix), V), -30.0, dtype=np.float32)
        for row, written in zip(logits, prefix[:, 1:].tolist(), strict=True):
            for token, p in self.tree.get(tuple(written), {END: 1.0}).items():
                row[token] = math.log(p)
        return logits


def noise(source, lengths, prefix):  # type: ignore[no-untyped-def]
    """Logits that are a fixed function of the source and all of the prefix."""
    out = []
    for s, n, p in zip(source, lengths, prefix, strict=True):
        seed = [int(t) for t in s[:n]] + [99] + [int(t) for t in p]
        out.append(np.random.default_rng(seed).normal(size=V) * 2)
    return np.array(out, dtype=np.float32)


# The likeliest first word leads to nothing likely: greedy takes A (0.5 * 0.4), B C is 0.4 * 0.9.
TRAP: Tree = {
    (): {A: 0.5, B: 0.4, C: 0.1},
    (A,): {A: 0.4, B: 0.3, C: 0.3},
    (B,): {C: 0.9, A: 0.1},
}


def test_greedy_takes_the_likeliest_token_until_the_end() -> None:
    found = greedy(Table(TRAP), ids(1), ones(1), max_length=9)[0]
    assert found.ids == (A, A)
    assert found.ended
    assert found.log_prob == pytest.approx(math.log(0.5 * 0.4), abs=1e-6)


def test_beam_finds_a_likelier_sequence_than_greedy() -> None:
    short = greedy(Table(TRAP), ids(1), ones(1), max_length=9)[0]
    best = beam_search(Table(TRAP), ids(1), ones(1), max_length=9, beam=2, length_penalty=0.0)[0][0]
    assert best.ids == (B, C)
    assert best.log_prob == pytest.approx(math.log(0.4 * 0.9), abs=1e-6)
    assert best.log_prob > short.log_prob


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(length_penalty: float) -> None:
    source, lengths = np.arange(24, dtype=np.int64).reshape(12, 2), np.tile([1, 2], 6)
    one = beam_search(noise, source, lengths, max_length=8, beam=1, length_penalty=length_penalty)
    expected = greedy(noise, source, lengths, max_length=8)
    assert [written[0] for written in one] == expected
    assert {written.ended for written in expected} == {True, False}  # both ways of stopping were met


def test_a_wide_beam_finds_the_best_of_all_sequences() -> None:
    longest, words = 3, (1, A, B, C)
    source = ids(3, 5, 8)
    found = beam_search(noise, source, ones(3), max_length=longest, beam=400, length_penalty=0.7)

    def score(row: int, tokens: tuple[int, ...]) -> float:
        total = 0.0
        for t, token in enumerate(tokens):
            prefix = np.array([[START, *tokens[:t]]], dtype=np.int64)
            logits = noise(source[row : row + 1], ones(1), prefix)[0].astype(np.float64)
            logits[[PAD, START]] = -np.inf
            total += logits[token] - np.log(np.exp(logits).sum())
        return total / penalty(len(tokens), 0.7)

    every = [(*w, END) for n in range(longest) for w in product(words, repeat=n)]
    every += list(product(words, repeat=longest))  # too long, but counted
    for row in range(3):
        best = max(every, key=lambda w: score(row, w))
        assert (*found[row][0].ids, END)[: len(best)] == best
        assert found[row][0].ended == (best[-1] == END)
        assert found[row][0].score(0.7) == pytest.approx(score(row, best))


def test_the_length_limit_holds_and_is_reported() -> None:
    endless: Tree = {prefix: {A: 1.0} for prefix in ((), (A,), (A, A), (A, A, A))}
    for beam in (1, 3):
        found = decode(Table(endless), ids(1, 1), ones(2), max_length=3, beam=beam)
        assert [w.ids for w in found] == [(A, A, A)] * 2
        assert not found[0].ended


def test_a_length_penalty_favours_longer_sequences() -> None:
    tree: Tree = {(): {END: 0.5, A: 0.5}, (A,): {B: 0.8, C: 0.2}, (A, B): {END: 1.0}}
    source = ids(1)
    strict = decode(Table(tree), source, ones(1), max_length=9, beam=3, length_penalty=0.0)
    kind = decode(Table(tree), source, ones(1), max_length=9, beam=3, length_penalty=3.0)
    assert (strict[0].ids, kind[0].ids) == ((), (A, B))


def test_batches_decode_as_single_sources_do() -> None:
    source = np.arange(30, dtype=np.int64).reshape(10, 3)
    lengths = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3, 1])
    for beam in (1, 3):
        alone = [
            decode(noise, source[i : i + 1], lengths[i : i + 1], max_length=6, beam=beam)[0]
            for i in range(10)
        ]
        for size in (2, 7, 64):
            assert decode(noise, source, lengths, max_length=6, beam=beam, batch_size=size) == alone


def test_a_batch_is_never_larger_than_allowed_and_shrinks_as_rows_end() -> None:
    table = Table(TRAP)
    decode(table, ids(*range(9)), ones(9), max_length=9, beam=2, batch_size=6)
    assert max(table.asked) <= 6
    mixed: Tree = {(): {A: 1.0}, (A,): {A: 1.0}}

    def step(source, lengths, prefix):  # type: ignore[no-untyped-def]
        logits = Table(mixed)(source, lengths, prefix)
        logits[source[:, 0] == 1, END] = 50.0
        asked.append(len(prefix))
        return logits

    asked: list[int] = []
    greedy(step, ids(1, 2, 1, 2), ones(4), max_length=5)
    assert asked == [4, 2, 2]


def test_padding_and_start_are_never_written() -> None:
    def step(source, lengths, prefix):  # type: ignore[no-untyped-def]
        logits = np.zeros((len(prefix), V), dtype=np.float32)
        logits[:, [PAD, START]] = 99.0
        logits[:, A] = 1.0
        return logits

    for beam in (1, 2):
        found = decode(step, ids(1), ones(1), max_length=3, beam=beam)[0]
        assert not {PAD, START} & set(found.ids)


def test_the_step_of_a_model_is_its_last_output() -> None:
    def answer(source, lengths, prefix):  # type: ignore[no-untyped-def]
        return np.arange(prefix.size * V, dtype=np.float32).reshape(*prefix.shape, V)

    prefix = np.full((2, 3), START, dtype=np.int64)
    last = next_logits(answer)(ids(1, 2), ones(2), prefix)
    np.testing.assert_array_equal(last, answer(None, None, prefix)[:, 2])


def test_no_sources_give_no_sequences() -> None:
    assert decode(noise, np.zeros((0, 3), np.int64), np.zeros(0, np.int64), max_length=4) == []


def test_bleu_of_equal_texts_is_100_and_falls_with_errors() -> None:
    pytest.importorskip("sacrebleu")
    said = ["the cat sat on the mat today", "we read many long books here"]
    assert corpus_bleu(said, said) == pytest.approx(100.0)
    assert 0 < corpus_bleu(["the cat sat on the mat now", said[1]], said) < 100
    assert corpus_bleu([], []) == 0.0


def test_bleu_without_sacrebleu_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name, *args, **kwargs):  # type: ignore[no-untyped-def]
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DlcliError, match="sacrebleu") as caught:
        corpus_bleu(["a"], ["a"])
    assert caught.value.hint == 'pip install "dlcli[translation]"'
