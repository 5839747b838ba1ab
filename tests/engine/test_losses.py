"""Losses: sums that add up over parts of a batch, against references and closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dlcli.config import OptimConfig
from dlcli.engine.losses import make_loss
from dlcli.task import (
    PAD,
    SPECIAL_TOKENS,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)

TABLE = TabularInput(numbers=(NumberColumn(name="x"),))
PLAIN, SMOOTH = OptimConfig(), OptimConfig(label_smoothing=0.1)
K, V, T = 4, 9, 5


def task(kind: str, **more: Any) -> TaskSpec:
    names = tuple("abcd")
    if kind in ("classification", "multilabel"):
        return TaskSpec(kind=kind, input=TABLE, class_names=names)  # type: ignore[arg-type]
    if kind == "seq2seq":
        words = TextInput(vocabulary=(*SPECIAL_TOKENS, *"vwxyz"), max_length=T)
        return TaskSpec(kind=kind, input=PairsInput(source=words, target=words))
    numbers = more.get("targets", (TargetNumber(name="u", mean=3, std=2), TargetNumber(name="v", std=5)))
    if kind == "regression":
        return TaskSpec(kind=kind, input=TABLE, targets=numbers)
    series = SeriesInput(channels=("u", "v"), mean=(0, 0), std=(1, 1), length=8)
    return TaskSpec(kind="forecast", input=series, targets=numbers, horizon=3)


def batch(kind: str, n: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers and raw targets, with targets that are shares for "mixed"."""
    g = torch.Generator().manual_seed(0)
    if kind == "classification":
        return torch.randn(n, K, generator=g), torch.randint(K, (n,), generator=g)
    if kind == "mixed":
        return torch.randn(n, K, generator=g), torch.rand(n, K, generator=g).softmax(1)
    if kind == "multilabel":
        return torch.randn(n, K, generator=g), torch.randint(2, (n, K), generator=g, dtype=torch.uint8)
    if kind == "seq2seq":
        tokens = torch.randint(1, V, (n, T), generator=g)
        for row in range(n):
            tokens[row, 1 + row % T :] = PAD
        return torch.randn(n, T, V, generator=g), tokens
    shape = (n, 2) if kind == "regression" else (n, 3, 2)
    return torch.randn(shape, generator=g), torch.randn(shape, generator=g, dtype=torch.float64) * 4


WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.1])
CASES = [
    ("classification", {}),
    ("classification", {"focal": True}),
    ("classification", {"class_weights": WEIGHTS}),
    ("classification", {"class_weights": WEIGHTS, "focal": True}),
    ("mixed", {}),
    ("mixed", {"class_weights": WEIGHTS, "focal": True}),
    ("multilabel", {}),
    ("multilabel", {"class_weights": WEIGHTS}),
    ("multilabel", {"class_weights": WEIGHTS, "focal": True}),
    ("regression", {}),
    ("forecast", {}),
    ("seq2seq", {}),
]


@pytest.mark.parametrize("optim", [PLAIN, SMOOTH], ids=["plain", "smooth"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_parts_of_a_batch_add_up_to_the_whole(
    kind: str, options: dict[str, Any], optim: OptimConfig
) -> None:
    loss = make_loss(task("classification" if kind == "mixed" else kind), optim, **options)
    outputs, targets = batch(kind)
    total, count = loss(outputs, targets)
    assert total.ndim == count.ndim == 0
    assert float(total) > 0
    parts = [loss(outputs[low:high], targets[low:high]) for low, high in ((0, 1), (1, 8), (8, 11))]
    torch.testing.assert_close(torch.stack([part for part, _ in parts]).sum(), total)
    assert float(sum(n for _, n in parts)) == float(count)
    if kind != "seq2seq":
        assert float(count) == len(outputs)


@pytest.mark.parametrize(("weights", "optim"), [(None, PLAIN), (WEIGHTS, PLAIN), (WEIGHTS, SMOOTH)])
def test_a_class_and_its_certain_share_are_the_same_target(
    weights: torch.Tensor | None, optim: OptimConfig
) -> None:
    outputs, targets = batch("classification")
    for focal in (False, True):
        loss = make_loss(task("classification"), optim, class_weights=weights, focal=focal)
        torch.testing.assert_close(loss(outputs, F.one_hot(targets, K).float()), loss(outputs, targets))


def test_a_mixed_target_gives_the_mixed_loss() -> None:
    outputs, targets = batch("classification")
    own = torch.linspace(0, 1, len(targets))[:, None]
    one, other = F.one_hot(targets, K).float(), F.one_hot(targets.flip(0), K).float()
    for focal in (False, True):
        loss = make_loss(task("classification"), PLAIN, class_weights=WEIGHTS, focal=focal)
        mixed, _ = loss(outputs, own * one + (1 - own) * other)
        apart = [
            loss(outputs[i : i + 1], t[i : i + 1])[0] * s
            for i in range(len(own))
            for t, s in ((one, own[i, 0]), (other, 1 - own[i, 0]))
        ]
        torch.testing.assert_close(mixed, torch.stack(apart).sum())


def test_untrained_answers_cost_the_logarithm_of_the_classes() -> None:
    total, count = make_loss(task("classification"), SMOOTH)(torch.zeros(7, K), torch.arange(7) % K)
    assert float(total / count) == pytest.approx(math.log(K))


def test_balanced_weights_leave_the_loss_its_size() -> None:
    targets = torch.tensor([0] * 6 + [1] * 3 + [2] * 2 + [3])
    counts = torch.bincount(targets).float()
    weights = len(targets) / (K * counts)  # a mean of 1 over these samples
    loss = make_loss(task("classification"), PLAIN, class_weights=weights)
    total, count = loss(torch.zeros(len(targets), K), targets)
    assert float(total / count) == pytest.approx(math.log(K))


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
def test_focal_loss_is_cross_entropy_times_the_squared_miss(p: float) -> None:
    logits = torch.tensor([[math.log(p / (1 - p)), 0.0]])
    expected = (1 - p) ** 2 * -math.log(p)
    two = TaskSpec(input=TABLE, class_names=("a", "b"))
    total, _ = make_loss(two, PLAIN, focal=True)(logits, torch.tensor([0]))
    assert float(total) == pytest.approx(expected, rel=1e-3)
    one = TaskSpec(kind="multilabel", input=TABLE, class_names=("a",))
    for target, sign in ((1, 1), (0, -1)):
        total, _ = make_loss(one, PLAIN, focal=True)(sign * logits[:, :1], torch.tensor([[target]]))
        assert float(total) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_focal_gradients_are_finite_for_any_logits(kind: str) -> None:
    _, targets = batch(kind, 6)
    outputs = torch.full((6, K), -1e4)
    outputs[:, 0] = 1e4
    outputs.requires_grad_()
    total, _ = make_loss(task(kind), SMOOTH, focal=True)(outputs, targets)
    total.backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
    assert torch.isfinite(total)


def test_multilabel_is_the_mean_over_labels_and_weighs_positives_alone() -> None:
    outputs, targets = batch("multilabel")
    total, count = make_loss(task("multilabel"), PLAIN)(outputs, targets)
    expected = F.binary_cross_entropy_with_logits(outputs, targets.float())
    torch.testing.assert_close(total / count, expected)
    for focal in (False, True):
        loss = make_loss(task("multilabel"), PLAIN, class_weights=WEIGHTS, focal=focal)
        plain = make_loss(task("multilabel"), PLAIN, focal=focal)
        nothing, everything = torch.zeros_like(targets), torch.ones_like(targets)
        torch.testing.assert_close(loss(outputs, nothing), plain(outputs, nothing))
        double = make_loss(task("multilabel"), PLAIN, class_weights=2 * torch.ones(K), focal=focal)
        torch.testing.assert_close(double(outputs, everything)[0], 2 * plain(outputs, everything)[0])


def test_numbers_are_scaled_before_they_lose_their_digits() -> None:
    spec = task("regression", targets=(TargetNumber(name="time", mean=1.7e9, std=0.5),))
    targets = torch.tensor([[1.7e9 + 0.25], [1.7e9 - 0.5]], dtype=torch.float64)
    total, count = make_loss(spec, PLAIN)(torch.tensor([[0.5], [0.0]]), targets)
    assert float(total) == pytest.approx(1.0)  # the first is hit, the second is one deviation off
    assert float(count) == 2


@pytest.mark.parametrize("kind", ["regression", "forecast"])
def test_squared_errors_are_of_scaled_numbers_and_a_mean_for_each_sample(kind: str) -> None:
    outputs, targets = batch(kind)
    total, count = make_loss(task(kind), SMOOTH)(outputs, targets)
    scaled = (targets - torch.tensor([3.0, 0.0])) / torch.tensor([2.0, 5.0])
    torch.testing.assert_close(total / count, ((outputs - scaled) ** 2).mean().float())


def test_shapes_that_would_be_broadcast_are_a_defect() -> None:
    with pytest.raises(AssertionError):
        make_loss(task("regression"), PLAIN)(torch.zeros(3, 2), torch.zeros(3, 1))


@pytest.mark.parametrize("optim", [PLAIN, SMOOTH])
def test_padding_costs_nothing(optim: OptimConfig) -> None:
    loss = make_loss(task("seq2seq"), optim)
    outputs, targets = batch("seq2seq")
    total, count = loss(outputs, targets)
    assert float(count) == int((targets != PAD).sum())
    other = torch.where((targets == PAD)[:, :, None], outputs.flip(0) * 9, outputs)
    torch.testing.assert_close(loss(other, targets)[0], total)
    longer = torch.cat([outputs, outputs], 1), torch.cat([targets, torch.full_like(targets, PAD)], 1)
    torch.testing.assert_close(loss(*longer), (total, count))
