"""Losses: sums that add up over parts of a batch, against references and closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dlcli.config import LossConfig
from dlcli.errors import UsageError
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
from dlcli.training.losses.make import check_loss, losses_for, make_loss

TABLE = TabularInput(numbers=(NumberColumn(name="x"),))
PLAIN, SMOOTH = LossConfig(), LossConfig(label_smoothing=0.1)
K, V, T = 4, 9, 5


def task(kind: Any, **more: Any) -> TaskSpec:
    names = tuple("abcd")
    if kind in ("classification", "multilabel"):
        return TaskSpec(kind=kind, input=TABLE, class_names=names)
    if kind == "embedding":
        return TaskSpec(kind=kind, input=TABLE, class_names=names, embedding_size=3)
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
    ("classification", {"name": "bce"}),
    ("classification", {"name": "bce", "class_weights": WEIGHTS}),
    ("mixed", {}),
    ("mixed", {"name": "bce", "class_weights": WEIGHTS}),
    ("mixed", {"class_weights": WEIGHTS, "focal": True}),
    ("multilabel", {}),
    ("multilabel", {"class_weights": WEIGHTS}),
    ("multilabel", {"class_weights": WEIGHTS, "focal": True}),
    *((kind, {"name": name}) for kind in ("regression", "forecast") for name in losses_for(kind)),
    ("seq2seq", {}),
]


@pytest.mark.parametrize("config", [PLAIN, SMOOTH], ids=["plain", "smooth"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_parts_of_a_batch_add_up_to_the_whole(
    kind: str, options: dict[str, Any], config: LossConfig
) -> None:
    options = dict(options)
    config = config.model_copy(update={"name": options.pop("name", None)})
    loss = make_loss(task("classification" if kind == "mixed" else kind), config, **options)
    outputs, targets = batch(kind)
    total, count = loss(outputs, targets)
    assert total.ndim == count.ndim == 0
    assert float(total.detach()) > 0
    parts = [loss(outputs[low:high], targets[low:high]) for low, high in ((0, 1), (1, 8), (8, 11))]
    torch.testing.assert_close(torch.stack([part for part, _ in parts]).sum(), total)
    assert float(sum(n for _, n in parts)) == float(count)
    if kind != "seq2seq":
        assert float(count) == len(outputs)


@pytest.mark.parametrize(("weights", "config"), [(None, PLAIN), (WEIGHTS, PLAIN), (WEIGHTS, SMOOTH)])
def test_a_class_and_its_certain_share_are_the_same_target(
    weights: torch.Tensor | None, config: LossConfig
) -> None:
    outputs, targets = batch("classification")
    for name in losses_for("classification"):
        named = config.model_copy(update={"name": name})
        loss = make_loss(task("classification"), named, class_weights=weights)
        torch.testing.assert_close(loss(outputs, F.one_hot(targets, K).float()), loss(outputs, targets))


def test_a_mixed_target_gives_the_mixed_loss() -> None:
    outputs, targets = batch("classification")
    own = torch.linspace(0, 1, len(targets))[:, None]
    one, other = F.one_hot(targets, K).float(), F.one_hot(targets.flip(0), K).float()
    for name in losses_for("classification"):
        loss = make_loss(task("classification"), LossConfig(name=name), class_weights=WEIGHTS)
        mixed, _ = loss(outputs, own * one + (1 - own) * other)
        apart = [
            loss(outputs[i : i + 1], t[i : i + 1])[0] * s
            for i in range(len(own))
            for t, s in ((one, own[i, 0]), (other, 1 - own[i, 0]))
        ]
        torch.testing.assert_close(mixed, torch.stack(apart).sum())


def test_untrained_outputs_cost_the_logarithm_of_the_classes() -> None:
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


@pytest.mark.parametrize("config", [PLAIN, SMOOTH])
def test_padding_costs_nothing(config: LossConfig) -> None:
    loss = make_loss(task("seq2seq"), config)
    outputs, targets = batch("seq2seq")
    total, count = loss(outputs, targets)
    assert float(count) == int((targets != PAD).sum())
    other = torch.where((targets == PAD)[:, :, None], outputs.flip(0) * 9, outputs)
    torch.testing.assert_close(loss(other, targets)[0], total)
    longer = torch.cat([outputs, outputs], 1), torch.cat([targets, torch.full_like(targets, PAD)], 1)
    torch.testing.assert_close(loss(*longer), (total, count))


def test_one_vs_rest_is_torchs_binary_loss_of_one_hot_targets() -> None:
    outputs, targets = batch("classification")
    for smoothing in (0.0, 0.1):
        config = LossConfig(name="bce", label_smoothing=smoothing)
        total, count = make_loss(task("classification"), config)(outputs, targets)
        shares = F.one_hot(targets, K) * (1 - smoothing) + smoothing / K
        expected = F.binary_cross_entropy_with_logits(outputs, shares)
        torch.testing.assert_close(total / count, expected)


def test_class_weights_of_one_vs_rest_weigh_samples() -> None:
    outputs, targets = batch("classification")
    total, _ = make_loss(task("classification"), LossConfig(name="bce"), class_weights=WEIGHTS)(
        outputs, targets
    )
    each = F.binary_cross_entropy_with_logits(outputs, F.one_hot(targets, K).float(), reduction="none")
    torch.testing.assert_close(total, (each.mean(dim=1) * WEIGHTS[targets]).sum())


@pytest.mark.parametrize("kind", ["regression", "forecast"])
def test_errors_of_numbers_are_torchs_own_on_scaled_values(kind: str) -> None:
    outputs, targets = batch(kind)
    scaled = ((targets - torch.tensor([3.0, 0.0])) / torch.tensor([2.0, 5.0])).float()
    own: dict[str, Any] = {
        "mse": F.mse_loss(outputs, scaled),
        "l1": F.l1_loss(outputs, scaled),
        "huber": F.huber_loss(outputs, scaled, delta=0.3),
        "smooth_l1": F.smooth_l1_loss(outputs, scaled, beta=0.3),
    }
    assert set(own) == set(losses_for(kind))
    for name, expected in own.items():
        config = LossConfig.model_validate({"name": name, "huber_delta": 0.3})
        total, count = make_loss(task(kind), config)(outputs, targets)
        torch.testing.assert_close(total / count, expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_gamma_says_how_little_the_easy_counts(gamma: float) -> None:
    for kind in ("classification", "multilabel"):
        outputs, targets = batch(kind)
        outputs[0] = 100.0 * targets[0] if kind == "multilabel" else 0.0
        outputs[1, 0] = 1e4
        outputs.requires_grad_()
        total, _ = make_loss(task(kind), LossConfig(name="focal", focal_gamma=gamma))(outputs, targets)
        (grad,) = torch.autograd.grad(total, outputs)
        assert torch.isfinite(grad).all()
        if not gamma:
            plain, _ = make_loss(task(kind), PLAIN)(outputs, targets)
            torch.testing.assert_close(total, plain)


# Triplets

EMBED = TaskSpec(kind="embedding", input=TABLE, class_names=tuple("abcd"), embedding_size=3)


def hardest_of_all(outputs: torch.Tensor, targets: torch.Tensor, margin: float) -> torch.Tensor:
    """Torch's own triplet loss at the hardest positive and negative, found by trying every pair."""
    unit = F.normalize(outputs, dim=1)
    total = outputs.new_zeros(())
    for a, own in enumerate(targets.tolist()):
        where = [i for i in range(len(targets)) if i != a and targets[i] == own]
        others = [i for i in range(len(targets)) if targets[i] != own]
        if where and others:
            distances = torch.cdist(unit[a : a + 1].detach(), unit.detach())[0]
            p = max(where, key=lambda i: float(distances[i]))
            n = min(others, key=lambda i: float(distances[i]))
            total = total + F.triplet_margin_loss(unit[a], unit[p], unit[n], margin=margin, eps=0.0)
    return total


@pytest.mark.parametrize("margin", [0.2, 1.5])
def test_each_sample_has_its_hardest_triplet(margin: float) -> None:
    g = torch.Generator().manual_seed(0)
    outputs = torch.randn(13, 3, generator=g, requires_grad=True)
    targets = torch.randint(3, (13,), generator=g)
    targets[0] = 3  # alone in its class
    total, count = make_loss(EMBED, LossConfig(margin=margin))(outputs, targets)
    expected = hardest_of_all(outputs, targets, margin)
    torch.testing.assert_close(total, expected)
    assert float(count) == 13
    assert float(total.detach()) > 0
    one, other = (torch.autograd.grad(value, outputs)[0] for value in (total, expected))
    torch.testing.assert_close(one, other)


def test_the_length_of_an_embedding_does_not_matter() -> None:
    outputs, targets = torch.randn(8, 3), torch.arange(8) % 2
    loss = make_loss(EMBED, PLAIN)
    torch.testing.assert_close(loss(outputs, targets), loss(outputs * 7, targets))


def test_equal_embeddings_cost_the_margin_and_give_a_finite_gradient() -> None:
    outputs = torch.ones(6, 3, requires_grad=True)
    total, count = make_loss(EMBED, LossConfig(margin=0.3))(outputs, torch.arange(6) % 2)
    assert float(total.detach() / count) == pytest.approx(0.3)
    (grad,) = torch.autograd.grad(total, outputs)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("classes", [[0, 0, 0], [0, 1, 2], [2]])
def test_without_a_pair_or_another_class_there_is_nothing_to_learn(classes: list[int]) -> None:
    outputs = torch.randn(len(classes), 3, requires_grad=True)
    total, count = make_loss(EMBED, PLAIN)(outputs, torch.tensor(classes))
    assert (float(total.detach()), float(count)) == (0.0, len(classes))
    (grad,) = torch.autograd.grad(total, outputs)
    assert not grad.any()


# What fits


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("classification", "mse"),
        ("multilabel", "cross_entropy"),
        ("regression", "focal"),
        ("forecast", "triplet"),
        ("seq2seq", "bce"),
        ("embedding", "cross_entropy"),
    ],
)
def test_a_loss_of_another_task_is_refused_with_those_that_fit(kind: str, name: str) -> None:
    config = LossConfig.model_validate({"name": name})
    for refuse in (make_loss, check_loss):
        with pytest.raises(UsageError, match=f"--loss {name} is not available for {kind}") as caught:
            refuse(task(kind), config)
        assert losses_for(kind)[0] in str(caught.value.hint)


def test_focal_by_balance_is_focal_by_name() -> None:
    outputs, targets = batch("classification")
    named = make_loss(task("classification"), LossConfig(name="focal"))
    balanced = make_loss(task("classification"), PLAIN, focal=True)
    assert named(outputs, targets) == balanced(outputs, targets)
    with pytest.raises(UsageError, match="--loss bce and --balance focal exclude each other"):
        make_loss(task("classification"), LossConfig(name="bce"), focal=True)
    with pytest.raises(UsageError, match="--balance focal is not available for regression"):
        make_loss(task("regression"), PLAIN, focal=True)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("regression", {"label_smoothing": 0.1}),
        ("embedding", {"label_smoothing": 0.1}),
        ("classification", {"focal_gamma": 1.0}),
        ("multilabel", {"huber_delta": 0.5}),
        ("regression", {"name": "l1", "huber_delta": 0.5}),
        ("seq2seq", {"margin": 0.5}),
    ],
)
def test_settings_that_the_loss_ignores_are_refused(kind: str, settings: dict[str, Any]) -> None:
    (key,) = settings.keys() - {"name"}
    with pytest.raises(UsageError, match=rf"loss\.{key} = \S+ means nothing to loss\.name = "):
        check_loss(task(kind), LossConfig.model_validate(settings))


def test_settings_that_the_loss_knows_are_fine() -> None:
    check_loss(task("classification"), LossConfig(focal_gamma=1.0), focal=True)
    check_loss(task("regression"), LossConfig(name="huber", huber_delta=0.5))
    check_loss(task("seq2seq"), SMOOTH)
    check_loss(task("embedding"), LossConfig(margin=0.5))
