"""Distillation: the loss against its formula, and teachers that see what the student sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dlcli.card import Card, ModelSpec
from dlcli.config import LossConfig
from dlcli.data.prepare import random_inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.checkpoint import save_model
from dlcli.task import (
    PAD,
    SPECIAL_TOKENS,
    ImageInput,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)
from dlcli.training.distillation import Teacher, distill, open_teacher
from dlcli.training.losses.make import make_loss
from dlcli.zoo.base import build_model

CPU = torch.device("cpu")
TABLE = TabularInput(numbers=(NumberColumn(name="x", mean=1.0), NumberColumn(name="y")))
WORDS = TextInput(vocabulary=(*SPECIAL_TOKENS, "a", "b", "c"), max_length=6)
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
    targets=(TargetNumber(name="x", mean=2.0, std=3.0),),
    horizon=2,
)
WRITING = TaskSpec(kind="seq2seq", input=PairsInput(source=WORDS, target=WORDS))


def image(size: int, channels: int = 3, **other: object) -> ImageInput:
    half = (0.5,) * channels
    values = {"channels": channels, "height": size, "width": size, "resize_size": size, "mean": half}
    return ImageInput.model_validate({**values, "std": half, **other})


def saved(path: Path, task: TaskSpec, model: str = "linear", **args: object) -> Path:
    torch.manual_seed(0)
    card = Card(model=ModelSpec(name=model, args=args), task=task)
    save_model(path, build_model(card.model, task), card)
    return path


def drawn(task: TaskSpec, samples: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, targets and a teacher's answers."""
    rng = torch.Generator().manual_seed(1)
    shape = tuple(6 if isinstance(side, str) else side for side in task.output_shape)
    outputs, taught = torch.randn(2, samples, *shape, generator=rng) * 2
    if task.kind == "classification":
        targets = torch.randint(0, 3, (samples,), generator=rng)
    elif task.kind == "multilabel":
        targets = torch.randint(0, 2, (samples, 2), generator=rng).to(torch.uint8)
    elif task.kind == "seq2seq":
        targets = torch.randint(1, 7, (samples, 6), generator=rng)
        targets[torch.arange(6)[None] >= torch.randint(1, 7, (samples, 1), generator=rng)] = PAD
    else:
        targets = torch.randn(samples, *shape, generator=rng, dtype=torch.float64)
    return outputs.requires_grad_(), targets, taught


EACH = pytest.mark.parametrize(
    "task", [CLASSES, LABELS, NUMBERS, FORECAST, WRITING], ids=lambda task: task.kind
)


# --- the loss


def lesson_by_hand(task: TaskSpec, outputs: Tensor, targets: Tensor, taught: Tensor, t: float) -> float:
    """The definitions, number by number, in float64."""
    outputs, taught = outputs.detach().double(), taught.double()
    if task.targets:
        return float(sum(((o - y) ** 2).mean() for o, y in zip(outputs, taught, strict=True)))
    if task.kind == "multilabel":
        total = 0.0
        for o, y in zip(
            (outputs / t).sigmoid().flatten(), (taught / t).sigmoid().flatten(), strict=True
        ):
            total += float(y * (y / o).log() + (1 - y) * ((1 - y) / (1 - o)).log())
        return t**2 * total / task.num_classes
    p, q = (outputs / t).softmax(-1), (taught / t).softmax(-1)
    divergences = (q * (q / p).log()).sum(-1)
    if task.kind == "seq2seq":
        divergences = divergences[targets != PAD]
    return t**2 * float(divergences.sum())


@EACH
@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 2.0), (0.9, 5.0), (1.0, 1.0)])
def test_the_loss_is_the_formula(task: TaskSpec, alpha: float, temperature: float) -> None:
    outputs, targets, taught = drawn(task)
    config = LossConfig(distill_alpha=alpha, temperature=temperature)
    loss = make_loss(task, config)
    total, count = distill(loss, task, config)(outputs, targets, taught)
    hard, own_count = loss(outputs, targets)
    lesson = lesson_by_hand(task, outputs, targets, taught, temperature)
    assert float(total.detach()) == pytest.approx(
        alpha * lesson + (1 - alpha) * float(hard.detach()), rel=1e-5
    )
    assert float(count) == float(own_count)


@EACH
def test_parts_of_a_batch_add_up_to_the_batch(task: TaskSpec) -> None:
    """In micro-batches as in one: value and gradient."""
    loss = distill(make_loss(task, LossConfig()), task, LossConfig())
    outputs, targets, taught = drawn(task, samples=7)
    whole, count = loss(outputs, targets, taught)
    (gradient,) = torch.autograd.grad(whole, outputs)
    sums = [loss(outputs[s], targets[s], taught[s]) for s in (slice(0, 3), slice(3, 7))]
    assert torch.allclose(sums[0][0] + sums[1][0], whole)
    assert float(sums[0][1] + sums[1][1]) == float(count)
    (parts,) = torch.autograd.grad(sums[0][0] + sums[1][0], outputs)
    assert torch.allclose(parts, gradient, atol=1e-6)


@EACH
def test_a_student_that_agrees_has_nothing_to_learn_from_its_teacher(task: TaskSpec) -> None:
    outputs, targets, _ = drawn(task)
    config = LossConfig(distill_alpha=1.0)
    total, _ = distill(make_loss(task, config), task, config)(outputs, targets, outputs.detach().clone())
    (gradient,) = torch.autograd.grad(total, outputs)
    assert float(total.detach()) == pytest.approx(0, abs=1e-5)
    assert float(gradient.abs().max()) < 1e-5


def test_gradients_keep_their_size_at_high_temperatures() -> None:
    """For T far above the logits, T^2 KL is about half the squared error of centred logits over K."""
    outputs, targets, taught = drawn(CLASSES)
    config = LossConfig(distill_alpha=1.0, temperature=500.0)
    total, _ = distill(make_loss(CLASSES, config), CLASSES, config)(outputs, targets, taught)
    (gradient,) = torch.autograd.grad(total, outputs)
    centred = [x - x.mean(1, keepdim=True) for x in (outputs.detach(), taught)]
    assert torch.allclose(gradient, (centred[0] - centred[1]) / 3, atol=0.02)


def test_mixed_targets_are_taken() -> None:
    outputs, _, taught = drawn(CLASSES)
    shares = torch.softmax(torch.randn(6, 3), 1)
    config = LossConfig()
    total, _ = distill(make_loss(CLASSES, config), CLASSES, config)(outputs, shares, taught)
    assert torch.isfinite(total)


def test_outputs_of_another_shape_are_a_defect() -> None:
    outputs, targets, taught = drawn(NUMBERS)
    config = LossConfig()
    with pytest.raises(AssertionError):
        distill(make_loss(NUMBERS, config), NUMBERS, config)(outputs, targets, taught[:, :1])


def test_a_student_learns_from_its_teacher_alone() -> None:
    """Wrong labels, all of the weight on the teacher: the student ends where the teacher is."""
    torch.manual_seed(0)
    x = torch.randn(64, 2)
    teacher, student = nn.Linear(2, 3), nn.Linear(2, 3)
    config = LossConfig(distill_alpha=1.0)
    loss = distill(make_loss(CLASSES, config), CLASSES, config)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        total, count = loss(student(x), torch.zeros(64, dtype=torch.int64), teacher(x).detach())
        (total / count).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert torch.allclose(student(x).softmax(1), teacher(x).softmax(1), atol=0.01)


# --- the teacher


@pytest.mark.parametrize(
    ("task", "model"),
    [(CLASSES, "linear"), (NUMBERS, "linear"), (TaskSpec(input=WORDS, class_names=("a", "b")), "cnn"),
     (FORECAST, "linear"), (WRITING, "seq2seq")],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)  # fmt: skip
def test_a_teacher_of_the_same_task_says_what_its_artifact_says(
    tmp_path: Path, task: TaskSpec, model: str
) -> None:
    path = saved(tmp_path / "t.safetensors", task, model)
    teacher = open_teacher(path, task, CPU)
    inputs = random_inputs(task, 5)
    tensors = tuple(torch.from_numpy(array) for array in inputs)
    before = [tensor.clone() for tensor in tensors]
    taught = teacher(tensors)
    assert taught.dtype == torch.float32
    assert not taught.requires_grad
    from dlcli.formats.base import open_artifact

    assert np.array_equal(taught.numpy(), open_artifact(path, device="cpu").predict(inputs))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_outputs_can_be_kept_for_a_backward_pass_and_dropout_is_off(tmp_path: Path) -> None:
    task = TaskSpec(input=image(8), class_names=("a", "b"))
    teacher = open_teacher(saved(tmp_path / "t.safetensors", task, "cnn", dropout=0.9), task, CPU)
    pixels = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(teacher((pixels,)), teacher((pixels,)))
    outputs = torch.zeros(4, 2, requires_grad=True)
    (outputs * teacher((pixels,))).sum().backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None


def test_classes_are_matched_by_name_and_further_ones_left_out(tmp_path: Path) -> None:
    own = CLASSES.model_copy(update={"class_names": ("dog", "c", "a", "b")})
    path = saved(tmp_path / "t.safetensors", own)
    x = torch.randn(5, 2)
    said = open_teacher(path, own, CPU)((x,))
    assert torch.equal(open_teacher(path, CLASSES, CPU)((x,)), said[:, [2, 3, 1]])


def test_numbers_come_on_the_students_scale(tmp_path: Path) -> None:
    other = NUMBERS.model_copy(
        update={"targets": (TargetNumber(name="v", mean=7.0, std=3.0), TargetNumber(name="u", mean=1e3))}
    )
    path = saved(tmp_path / "t.safetensors", other)
    x = torch.randn(5, 2)
    own = open_teacher(path, other, CPU)((x,)).double()
    units = own * torch.tensor([3.0, 1.0]) + torch.tensor([7.0, 1e3])
    wanted = (units[:, [1, 0]] - torch.tensor([5.0, -1.0])) / torch.tensor([2.0, 1.0])
    assert torch.allclose(open_teacher(path, NUMBERS, CPU)((x,)).double(), wanted, rtol=1e-5)


class Means(nn.Module):
    """The mean of each channel, as normalised, and the size."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), torch.full((len(x), 1), float(x.shape[2]))], 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_are_resized_and_normalised_for_the_teacher_and_left_to_the_student(
    dtype: torch.dtype,
) -> None:
    names = ("r", "g", "b", "size")
    student = TaskSpec(input=image(8), class_names=names)
    for size in (4, 8, 12):
        own = TaskSpec(input=image(size, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3)), class_names=names)
        teacher = Teacher(Means(), own, student, CPU)
        pixels = torch.randint(0, 256, (3, 8, 8, 3)).to(dtype)
        before = pixels.clone()
        said = teacher((pixels,))
        assert torch.equal(pixels, before)
        wanted = (pixels.double().mean((1, 2)) / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor(
            [0.5, 0.4, 0.3]
        )
        atol = 1e-5 if size == 8 else 0.15  # resized, borders weigh otherwise than the rest
        assert torch.allclose(said[:, :3].double(), wanted, atol=atol)
        assert (said[:, 3] == size).all()


def test_a_resized_image_is_antialiased() -> None:
    """Stripes of one pixel become grey; without the filter they would stay black or white."""

    class Extremes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.amin((1, 2, 3)), x.amax((1, 2, 3))], 1)

    task = TaskSpec(input=image(16), class_names=("low", "high"))
    own = TaskSpec(input=image(4), class_names=("low", "high"))
    pixels = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    pixels[:, :, ::2] = 255
    low, high = Teacher(Extremes(), own, task, CPU)((pixels,))[0].tolist()
    assert -0.2 < low < high < 0.2


def test_grey_and_colour_teach_each_other() -> None:
    class Plane(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))[:, [0, -1]] * 127.5 + 127.5

    grey, colour = (TaskSpec(input=image(4, c), class_names=("a", "b")) for c in (1, 3))
    pixels = torch.tensor([10, 100, 200], dtype=torch.uint8).expand(2, 4, 4, 3)
    said = Teacher(Plane(), grey, colour, CPU)((pixels,))
    assert said[0].tolist() == pytest.approx([0.299 * 10 + 0.587 * 100 + 0.114 * 200] * 2, abs=0.01)
    said = Teacher(Plane(), colour, grey, CPU)((pixels[..., :1],))
    assert said[0].tolist() == pytest.approx([10, 10], abs=0.01)


# --- refusals


def texts(**other: object) -> TaskSpec:
    return TaskSpec(input=WORDS.model_copy(update=other), class_names=("a", "b"))


def scaled(**other: object) -> TaskSpec:
    return FORECAST.model_copy(update={"input": FORECAST.input.model_copy(update=other)})


@pytest.mark.parametrize(
    ("own", "model", "task", "said"),
    [
        (NUMBERS, "linear", CLASSES, "does regression, and this run classification"),
        (texts(), "cnn", CLASSES.model_copy(update={"class_names": ("a", "b")}), "reads text, and this"),
        (CLASSES, "linear", CLASSES.model_copy(update={"class_names": ("a", "b", "z")}), "class 'z'"),
        (
            FORECAST,
            "linear",
            FORECAST.model_copy(update={"horizon": 3}),
            "predicts 2 steps, and this run 3",
        ),
        (texts(), "cnn", texts(vocabulary=(*WORDS.vocabulary, "d")), "vocabulary differ"),
        (texts(max_length=5), "cnn", texts(), "max_length differ"),
        (
            scaled(mean=(1.0,)),
            "linear",
            FORECAST,
            "series input in another way than this run: mean differ",
        ),
        (
            CLASSES.model_copy(update={"input": TabularInput(numbers=(NumberColumn(name="x"),))}),
            "linear",
            CLASSES,
            "numbers differ",
        ),
        (
            WRITING,
            "seq2seq",
            TaskSpec(
                kind="seq2seq",
                input=PairsInput(source=WORDS, target=WORDS.model_copy(update={"lowercase": False})),
            ),
            "of target texts, encodes its text input in another way than this run: lowercase differ",
        ),
    ],
)
def test_teachers_of_other_things_are_refused(
    tmp_path: Path, own: TaskSpec, model: str, task: TaskSpec, said: str
) -> None:
    path = saved(tmp_path / "t.safetensors", own, model)
    with pytest.raises(UsageError) as caught:
        open_teacher(path, task, CPU)
    assert said in caught.value.message
    assert caught.value.message.startswith(f"--teacher {path}")
    assert caught.value.hint


def test_a_teacher_of_longer_texts_and_another_column_is_taken(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.safetensors", texts(max_length=9, column="review"), "cnn")
    open_teacher(path, texts(), CPU)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match="does not exist"):
        open_teacher(tmp_path / "gone.safetensors", CLASSES, CPU)
    vectors = TaskSpec(kind="embedding", input=TABLE, class_names=("a", "b"), embedding_size=4)
    path = saved(tmp_path / "t.safetensors", CLASSES)
    with pytest.raises(UsageError, match="embeddings are trained on classes"):
        open_teacher(path, vectors, CPU)


def test_an_exported_file_does_not_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlcli.formats.base import FORMATS, ModelFile
    from dlcli.formats.checkpoint import card_of
    from dlcli.training import distillation as module

    path = saved(tmp_path / "t.safetensors", CLASSES)
    onnx = replace(FORMATS.get("onnx"), read_card=card_of)
    monkeypatch.setattr(module, "recognize", lambda path: ModelFile(path, onnx))
    with pytest.raises(UsageError, match="format onnx, and holds no trainable model") as caught:
        open_teacher(path, CLASSES, CPU)
    assert caught.value.hint is not None
    assert "the model that it was made from" in caught.value.hint
