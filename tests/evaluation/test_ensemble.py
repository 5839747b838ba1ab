"""Ensembles: the mean answer of models that may differ in everything but the question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlcli.card import Card, ModelSpec
from dlcli.config import EvalConfig
from dlcli.data.base import ArrayReader, Indices, Inputs, Reader, Samples, Stacked
from dlcli.data.images.reader import PixelReader
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.ensemble import Ensemble, check_members
from dlcli.evaluation.eval_data import EvalData
from dlcli.evaluation.evaluate import evaluate
from dlcli.evaluation.evaluate_artifacts import evaluate_ensemble
from dlcli.evaluation.probabilities import softmax
from dlcli.evaluation.tta import with_tta
from dlcli.formats.base import FORMATS, Artifact, ModelFile, Outputs
from dlcli.task import (
    SPECIAL_TOKENS,
    ImageInput,
    InputSpec,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)

TABLE = TabularInput(numbers=(NumberColumn(name="x"), NumberColumn(name="y")))
WIDE = TabularInput(numbers=(NumberColumn(name="y"), NumberColumn(name="x"), NumberColumn(name="z")))
WORDS = TextInput(vocabulary=SPECIAL_TOKENS, max_length=4)
CLASSES = TaskSpec(input=TABLE, class_names=("a", "b", "c"))
LABELS = TaskSpec(kind="multilabel", input=TABLE, class_names=("p", "q"))
NUMBERS = TaskSpec(
    kind="regression",
    input=TABLE,
    targets=(TargetNumber(name="u", mean=5.0, std=2.0), TargetNumber(name="v", mean=-1.0)),
)
FORECAST = TaskSpec(
    kind="forecast",
    input=SeriesInput(channels=("x",), mean=(0.0,), std=(1.0,), length=4),
    targets=(TargetNumber(name="x"),),
    horizon=2,
)
RNG = np.random.default_rng(0)


class Says(Artifact):
    """A model that is a function of its inputs."""

    def __init__(self, name: str, task: TaskSpec, say: Callable[..., np.ndarray]) -> None:
        file = ModelFile(Path(name), FORMATS.get("safetensors"))
        super().__init__(file, Card(model=ModelSpec(name=name), task=task))
        self.say = say

    def predict(self, inputs: Inputs) -> Outputs:
        return self.say(*inputs).astype(np.float32)


def fixed(name: str, task: TaskSpec, answers: np.ndarray) -> Says:
    return Says(name, task, lambda *inputs: answers)


def image_task(size: int) -> TaskSpec:
    spec = ImageInput(
        channels=3, height=size, width=size, resize_size=size, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return TaskSpec(input=spec, class_names=("a", "b"))


# --- the mean


def test_classes_average_probabilities_matched_by_name() -> None:
    one, two = RNG.normal(size=(2, 5, 3)) * 3
    other = CLASSES.model_copy(update={"class_names": ("c", "a", "b")})
    both = Ensemble([fixed("1", CLASSES, one), fixed("2", other, two[:, [2, 0, 1]])])
    said = both.predict((np.zeros((5, 2)),))
    assert said.dtype == np.float32
    assert np.allclose(softmax(said), (softmax(one) + softmax(two)) / 2, atol=1e-6)
    assert np.allclose(np.exp(said).sum(1), 1, atol=1e-6)  # the loss is that of the mean


def test_labels_average_probabilities_also_near_certainty() -> None:
    one, two = np.array([[0.0, 40.0], [-2.0, -60.0]]), np.array([[2.0, 20.0], [4.0, -60.0]])
    other = LABELS.model_copy(update={"class_names": ("q", "p")})
    both = Ensemble([fixed("1", LABELS, one), fixed("2", other, two[:, ::-1])])
    said = both.predict((np.zeros((2, 2)),)).astype(np.float64)
    share = (1 / (1 + np.exp(-one)) + 1 / (1 + np.exp(-two))) / 2
    assert np.allclose(1 / (1 + np.exp(-said)), share)
    # The mean of what is missing to 1: about exp(-20) / 2.
    assert said[0, 1] == pytest.approx(20 + np.log(2), abs=1e-5)
    assert said[1, 1] == pytest.approx(-60)


def test_numbers_average_in_the_units_of_the_data() -> None:
    units = RNG.normal(size=(2, 6, 2)) * 10
    mean, std = np.array([[5.0, -1.0]]), np.array([[2.0, 1.0]])
    other = NUMBERS.model_copy(
        update={"targets": (TargetNumber(name="v", mean=7.0, std=3.0), TargetNumber(name="u"))}
    )
    swapped = np.stack([(units[1, :, 1] - 7) / 3, units[1, :, 0]], axis=1)
    both = Ensemble([fixed("1", NUMBERS, (units[0] - mean) / std), fixed("2", other, swapped)])
    said = both.predict((np.zeros((6, 2)),)) * std + mean
    assert np.allclose(said, units.mean(0), atol=1e-5)


def test_forecasts_of_other_scales_and_channels_average() -> None:
    units = RNG.normal(size=(2, 3, 2, 1))
    series = SeriesInput(channels=("w", "x"), mean=(0.0, 9.0), std=(1.0, 2.0), length=3)
    other = FORECAST.model_copy(
        update={"input": series, "targets": (TargetNumber(name="x", mean=9.0, std=2.0),)}
    )
    both = Ensemble([fixed("1", FORECAST, units[0]), fixed("2", other, (units[1] - 9) / 2)])
    assert np.allclose(
        both.predict((np.zeros((3, 4, 1)), np.zeros((3, 3, 2)))), units.mean(0), atol=1e-6
    )


@pytest.mark.parametrize("task", [CLASSES, LABELS, NUMBERS], ids=lambda task: task.kind)
def test_one_model_is_itself_to_the_bit_and_twice_the_same_model_is_too(task: TaskSpec) -> None:
    answers = (RNG.normal(size=(4, task.num_outputs)) * 5).astype(np.float32)
    model = fixed("1", task, answers)
    assert np.array_equal(Ensemble([model]).predict((np.zeros((4, 2)),)), answers)
    twice = Ensemble([model, model]).predict((np.zeros((4, 2)),))
    if task is CLASSES:
        assert np.allclose(softmax(twice), softmax(answers), atol=1e-7)
    else:
        assert np.allclose(twice, answers, atol=1e-5)


def test_an_output_that_is_not_finite_is_not_hidden() -> None:
    for task in (CLASSES, LABELS, NUMBERS):
        one, two = np.zeros((2, 3, task.num_outputs))
        one[1] = np.inf
        said = Ensemble([fixed("1", task, one), fixed("2", task, two)]).predict((np.zeros((3, 2)),))
        assert np.isfinite(said).all(axis=1).tolist() == [True, False, True]


def test_mirrored_views_are_averaged_in_each_member() -> None:
    tasks = image_task(2), image_task(4)
    pixels = [RNG.integers(0, 256, (3, n, n, 3), dtype=np.uint8) for n in (2, 4)]
    models = [Says("1", tasks[0], left_half), Says("2", tasks[1], left_half)]
    said = Ensemble(models, tta="flip").predict(tuple(pixels))
    alone = [with_tta(m.predict, m.card.task, "flip")((p,)) for m, p in zip(models, pixels, strict=True)]
    assert np.allclose(softmax(said), (softmax(alone[0]) + softmax(alone[1])) / 2, atol=1e-6)
    with pytest.raises(UsageError, match="--tta flip is for images"):
        Ensemble([fixed("1", CLASSES, np.zeros((1, 3)))], tta="flip")


def left_half(pixels: np.ndarray) -> np.ndarray:
    sides = np.split(pixels.astype(np.float64), 2, axis=2)
    return np.stack([side.mean(axis=(1, 2, 3)) / 50 for side in sides], axis=1)


def test_mean_embeddings_have_length_one() -> None:
    spec = image_task(2).input
    task = TaskSpec(kind="embedding", input=spec, class_names=("a", "b"), embedding_size=2)

    def say(pixels: np.ndarray) -> np.ndarray:
        raw = left_half(pixels)
        return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True))

    pixels = RNG.integers(0, 256, (5, 2, 2, 3), dtype=np.uint8)
    said = with_tta(Says("1", task, say).predict, task, "flip")((pixels,))
    assert said.dtype == np.float32
    assert np.allclose(np.linalg.norm(said, axis=1), 1, atol=1e-6)
    mean = say(pixels) + say(pixels[:, :, ::-1])
    assert np.allclose(said, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)


# --- what has no mean


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (NUMBERS, "the first does classification, the second regression"),
        (
            TaskSpec(input=WORDS, class_names=("a", "b", "c")),
            "the first reads tabular, the second text",
        ),
        (
            CLASSES.model_copy(update={"class_names": ("a", "b", "dog")}),
            "only the first knows the class c",
        ),
        (
            CLASSES.model_copy(update={"class_names": ("a", "b", "c", "dog")}),
            "only the second knows the class dog",
        ),
    ],
)
def test_other_questions_are_refused(other: TaskSpec, said: str) -> None:
    with pytest.raises(UsageError, match=f"one and two do different tasks: {said}"):
        check_members([("one", CLASSES), ("two", other)])


def test_other_targets_and_horizons_are_refused() -> None:
    renamed = NUMBERS.model_copy(update={"targets": (NUMBERS.targets[0], TargetNumber(name="w"))})
    with pytest.raises(UsageError, match="only the first knows the target v"):
        check_members([("one", NUMBERS), ("two", renamed)])
    longer = FORECAST.model_copy(update={"horizon": 3})
    with pytest.raises(UsageError, match="the first predicts 2 steps, the second 3"):
        Ensemble([fixed("1", FORECAST, np.zeros(1)), fixed("2", longer, np.zeros(1))])


def test_writers_and_embeddings_stand_alone() -> None:
    pairs = TaskSpec(kind="seq2seq", input=PairsInput(source=WORDS, target=WORDS))
    vectors = TaskSpec(kind="embedding", input=TABLE, class_names=("a", "b"), embedding_size=4)
    for task in (pairs, vectors):
        check_members([("one", task)])
        with pytest.raises(UsageError, match=f"models for {task.kind} cannot be averaged") as caught:
            check_members([("one", task), ("two", task)])
        assert caught.value.hint == "give one model"


# --- reading and measuring


class Columns(ArrayReader):
    """The numbers of a table that a task asks for; samples whose own column holds NaN are bad."""

    made = 0

    def __init__(self, samples: Samples, task: TaskSpec) -> None:
        assert isinstance(task.input, TabularInput)
        assert isinstance(samples.items, Stacked)
        where = ["xyz".index(column.name) for column in task.input.numbers]
        super().__init__(samples, (samples.items.values[:, where].astype(np.float32),))
        Columns.made += 1

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        (rows,), _ = super().read(indices)
        fine = np.isfinite(rows).all(axis=1)
        self.bad.update({self.samples.ids[i]: "a gap" for i in indices[~fine].tolist()})
        return (rows[fine],), indices[fine]


def samples(count: int = 41) -> Samples:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(count, 3))
    rows[7, 2] = np.nan  # z, which the second kind of model reads
    targets = np.where(rows[:, 0] > 0.4, 2, np.where(rows[:, 1] > 0, 1, 0))
    return Samples(tuple(map(str, range(count))), targets, Stacked(rows))


def by_x(x: np.ndarray) -> np.ndarray:
    return np.stack([-x[:, 1], x[:, 1], 4 * x[:, 0]], axis=1)


def by_z(x: np.ndarray) -> np.ndarray:
    """For inputs (y, x, z) and classes (c, a, b)."""
    return np.stack([4 * x[:, 1], x[:, 2], x[:, 0]], axis=1)


OTHER = TaskSpec(input=WIDE, class_names=("c", "a", "b"))


def test_a_sample_that_one_member_cannot_read_is_bad_for_all() -> None:
    listed = samples()
    both = Ensemble([Says("1", CLASSES, by_x), Says("2", OTHER, by_z)])
    reader = both.reader(lambda task: Columns(listed, task))
    where = np.array([3, 7, 7, 9, 3])
    inputs, kept = reader.read(where)
    assert kept.tolist() == [3, 9, 3]
    assert [array.shape for array in inputs] == [(3, 2), (3, 3)]
    values = listed.items.values  # type: ignore[attr-defined]
    assert np.allclose(inputs[0], values[kept][:, [0, 1]], atol=1e-6)
    assert np.allclose(inputs[1], values[kept][:, [1, 0, 2]], atol=1e-6)
    assert reader.bad == {"7": "a gap"}
    assert np.array_equal(reader.targets(kept), listed.targets[kept])


def test_members_with_the_same_encoders_share_what_was_read() -> None:
    Columns.made = 0
    models = [Says(str(i), task, by_x) for i, task in enumerate([CLASSES, CLASSES, CLASSES])]
    reader = Ensemble(models).reader(lambda task: Columns(samples(), task))
    assert Columns.made == 1
    inputs, _ = reader.read(np.arange(4))
    assert len(inputs) == 1
    assert np.allclose(Ensemble(models).outputs(inputs), by_x(inputs[0]))


def test_readers_of_other_samples_are_refused() -> None:
    both = Ensemble([Says("1", CLASSES, by_x), Says("2", OTHER, by_z)])
    with pytest.raises(DlcliError, match="2 and 1 read different samples"):
        both.reader(lambda task: Columns(samples(41 if task == CLASSES else 40), task))


def data_of(listed: Samples, monkeypatch: pytest.MonkeyPatch) -> EvalData:
    from dlcli.evaluation import evaluate_artifacts as module

    class Kind:
        measures = None

        @staticmethod
        def default_batch_size(spec: InputSpec) -> int:
            return 256

        @staticmethod
        def reader(listed: Samples, task: TaskSpec, options: object) -> Reader:
            return Columns(listed, task)

    monkeypatch.setattr(module, "kind_of", lambda task: Kind)
    return EvalData(Columns(listed, CLASSES), "test", "", train=lambda: Columns(samples(17), CLASSES))


def test_each_member_is_measured_alone_in_the_same_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = samples()
    models = [Says("1", CLASSES, by_x), Says("2", OTHER, by_z)]
    config = EvalConfig(batch_size=4)
    result = evaluate_ensemble(Ensemble(models), data_of(listed, monkeypatch), config)
    assert result.samples == 40
    assert result.bad_samples == {"7": "a gap"}
    kept = np.delete(np.arange(41), 7)
    whole = Samples(tuple(map(str, kept)), listed.targets[kept], listed.items.take(kept))
    both = Ensemble(models)

    def alone(number: int) -> dict[str, float]:
        reader = both.reader(lambda task: Columns(whole, task))
        result = evaluate(lambda inputs: both.outputs(inputs)[number], reader, CLASSES, split="test")
        return result.metrics

    for number, row in enumerate(result.members):
        assert row.artifact == str(models[number].path)
        assert row.metrics == alone(number)
        assert row.difference == result.metrics["accuracy"] - row.metrics["accuracy"]
        assert row.low <= row.difference <= row.high
    assert [row.name for row in result.baselines] == ["majority"]  # paired without sample 7
    reader = both.reader(lambda task: Columns(whole, task))
    assert evaluate(both.predict, reader, CLASSES, split="test").metrics == result.metrics


def test_one_model_has_no_other_members(monkeypatch: pytest.MonkeyPatch) -> None:
    result = evaluate_ensemble(
        Ensemble([Says("1", CLASSES, by_x)]), data_of(samples(), monkeypatch), EvalConfig()
    )
    assert result.members == ()
    assert result.samples == 41
    assert result.to_dict()["members"] == ()


def test_the_same_model_twice_is_no_better(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Says("1", CLASSES, by_x)
    result = evaluate_ensemble(Ensemble([model, model]), data_of(samples(), monkeypatch), EvalConfig())
    assert [(row.difference, row.better) for row in result.members] == [(0, None), (0, None)]


def test_a_model_that_spoils_the_mean_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: np.ndarray) -> np.ndarray:
        return -5 * by_x(x)

    models = [Says("1", CLASSES, by_x), Says("2", CLASSES, wrong)]
    result = evaluate_ensemble(Ensemble(models), data_of(samples(), monkeypatch), EvalConfig())
    assert result.members[0].better is False
    assert result.members[0].low < result.members[0].difference < 0


def test_images_are_read_at_each_members_size() -> None:
    pixels = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    listed = Samples(tuple("012345"), np.zeros(6, dtype=np.int64), Stacked(pixels))

    def make(task: TaskSpec) -> Reader:
        assert isinstance(task.input, ImageInput)
        return PixelReader(listed, task.input, workers=1, cache_bytes=0)

    both = Ensemble([Says(str(n), image_task(n), left_half) for n in (8, 4, 8)])
    reader = both.reader(make)
    inputs, kept = reader.read(np.arange(6))
    assert [array.shape for array in inputs] == [(6, 8, 8, 3), (6, 4, 4, 3)]
    first, second, third = both.outputs(inputs)
    assert np.array_equal(first, third)
    assert np.allclose(first, second, atol=0.1)
    assert both.predict(inputs).shape == (6, 2)
    assert len(kept) == 6
