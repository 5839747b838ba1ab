"""Retrieval figures: against plain search, in any batching and order, in bounded memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlcli.evaluation.metrics import default_monitor, make_counts, metric_names
from dlcli.evaluation.metrics import embedding as module
from dlcli.evaluation.metrics.embedding import EmbeddingCounts, nearest_cosines, unit
from dlcli.task import NumberColumn, TabularInput, TaskSpec

TASK = TaskSpec(
    kind="embedding",
    input=TabularInput(numbers=(NumberColumn(name="x"),)),
    class_names=("a", "b", "c"),
    embedding_size=8,
)
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(101, 8)).astype(np.float32)
TARGETS = RNG.integers(0, 6, 101)


def counted(vectors: object, targets: object) -> EmbeddingCounts:
    counts = EmbeddingCounts()
    counts.update(np.asarray(vectors, dtype=np.float32), np.asarray(targets))
    return counts


def test_recall_is_that_of_a_plain_search() -> None:
    counts = counted(VECTORS, TARGETS)
    long = VECTORS.astype(np.float64)
    hits = []
    for i, vector in enumerate(long):
        angles = [
            -np.inf if i == j else vector @ other / np.linalg.norm(other) for j, other in enumerate(long)
        ]
        hits.append(float(TARGETS[int(np.argmax(angles))] == TARGETS[i]))
    assert counts.scores("recall_at_1").tolist() == hits
    assert counts.metrics()["recall_at_1"] == pytest.approx(np.mean(hits))
    assert counts.samples == 101


def test_batches_order_and_merging_change_no_bit() -> None:
    whole = counted(VECTORS, TARGETS)
    parts = EmbeddingCounts()
    order = RNG.permutation(101)
    for start in range(0, 101, 7):
        rows = order[start : start + 7]
        other = counted(VECTORS[rows], TARGETS[rows])
        if start % 2:
            parts.merge(other)
        else:
            parts.update(VECTORS[rows], TARGETS[rows])
    parts.update(VECTORS[:0], TARGETS[:0])
    assert parts.metrics() == whole.metrics()
    assert np.array_equal(parts.scores("recall_at_1"), whole.scores("recall_at_1")[order])
    assert parts.result("val").to_dict() == whole.result("val").to_dict()


def test_blocks_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(VECTORS)
    whole = nearest_cosines(vectors, TARGETS)
    monkeypatch.setattr(module, "BLOCK", 101 * 10)
    blocks = nearest_cosines(vectors, TARGETS)
    assert np.allclose(whole, blocks, atol=1e-6)


def test_length_does_not_matter() -> None:
    scaled = VECTORS * RNG.uniform(0.1, 10, (101, 1)).astype(np.float32)
    expected = counted(VECTORS, TARGETS).metrics()
    assert counted(scaled, TARGETS).metrics() == pytest.approx(expected, abs=1e-6)


def test_a_sample_that_is_alone_in_its_class_is_a_neighbour_but_no_query() -> None:
    counts = counted([[1, 0], [0.9, 0.1], [0, 1], [0.5, 0.5], [0.4, 0.6]], [0, 0, 1, 2, 2])
    assert len(counts.scores("recall_at_1")) == 4
    assert counts.samples == 5
    # The lone one lies nearest to nobody here; moved onto another it takes its place.
    assert counts.scores("recall_at_1").tolist() == [1, 1, 1, 1]
    moved = counted([[1, 0], [0.9, 0.1], [0.9, 0.1], [0.5, 0.5], [0.4, 0.6]], [0, 0, 1, 2, 2])
    assert moved.scores("recall_at_1").tolist() == [0, 0, 1, 1]


def test_embeddings_that_have_all_become_one_find_nothing() -> None:
    one = np.broadcast_to(VECTORS[0], VECTORS.shape)
    metrics = counted(one, TARGETS).metrics()
    assert metrics["recall_at_1"] == 0
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-3)


def test_the_loss_tells_equal_recalls_apart() -> None:
    targets = [0, 0, 1, 1]
    near, far = ([[1, 0], [1, x], [0, 1], [x, 1]] for x in (0.1, 0.3))
    one, other = counted(near, targets).metrics(), counted(far, targets).metrics()
    assert one["recall_at_1"] == other["recall_at_1"] == 1
    assert one["loss"] < other["loss"] < math.log(2)


@pytest.mark.parametrize("targets", [[], [0, 1, 2]])
def test_without_a_pair_there_is_no_figure(targets: list[int]) -> None:
    counts = counted(VECTORS[: len(targets)], np.array(targets, dtype=np.int64))
    assert all(math.isnan(value) for value in counts.metrics().values())
    assert len(counts.scores("recall_at_1")) == 0


def test_an_output_that_is_no_number_is_wrong_and_disturbs_no_other() -> None:
    broken = VECTORS.copy()
    broken[3, 2] = np.nan
    broken[4, 1] = np.inf
    counts = counted(broken, TARGETS)
    assert counts.non_finite == counts.result("val").non_finite == 2
    assert counts.scores("recall_at_1")[[3, 4]].tolist() == [0, 0]
    assert math.isnan(counts.metrics()["loss"])
    rest = np.setdiff1d(np.arange(101), [3, 4])
    alone = counted(VECTORS[rest], TARGETS[rest])
    assert counts.scores("recall_at_1")[rest].tolist() == alone.scores("recall_at_1").tolist()


def test_the_task_has_these_metrics_and_is_chosen_by_recall() -> None:
    counts = make_counts(TASK)
    assert isinstance(counts, EmbeddingCounts)
    assert tuple(counts.metrics()) == metric_names(TASK)
    assert default_monitor(TASK) == "recall_at_1"
