"""Optimizers against the rules they are named after, and how their parameters are grouped."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlcli.config import OptimConfig
from dlcli.errors import UsageError
from dlcli.training.optim.make import check_optim, make_optimizer, set_lr
from dlcli.training.optim.optimizers.base import OPTIMIZERS
from dlcli.training.optim.optimizers.muon import hidden_weights, orthogonalize

NAMES = OPTIMIZERS.names()
LR, DECAY = 0.01, 0.05


class Net(nn.Module):
    """A kernel, a norm, an embedding, matrices and a head; (B, 2, 6, 6) and (B,) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 4))
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.embedding = nn.Embedding(5, 4)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).mean((2, 3)) + self.embedding(codes) + self.token
        out: Tensor = self.head(self.body(y))
        return out


HIDDEN = {"conv.weight", "body.0.weight", "body.2.weight"}


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def made(module: nn.Module, name: str, **settings: Any) -> torch.optim.Optimizer:
    config = OptimConfig(optimizer=name, lr=LR, weight_decay=DECAY, **settings)  # type: ignore[arg-type]
    return make_optimizer(module, config, head="head")


def loss_of(module: nn.Module, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(8, 2, 6, 6, generator=generator)
    codes = torch.arange(8) % 5
    return nn.functional.cross_entropy(module(x, codes), torch.arange(8) % 3)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(4)) -> list[float]:
    losses = []
    for number in steps:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(module, number)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


REFERENCES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda g: torch.optim.AdamW(g, lr=LR),
    "adam": lambda g: torch.optim.Adam(g, lr=LR),
    "sgd": lambda g: torch.optim.SGD(g, lr=LR),
    "momentum": lambda g: torch.optim.SGD(g, lr=LR, momentum=0.9),
    "nesterov": lambda g: torch.optim.SGD(g, lr=LR, momentum=0.9, nesterov=True),
    "rmsprop": lambda g: torch.optim.RMSprop(g, lr=LR, momentum=0.9),
    "adagrad": lambda g: torch.optim.Adagrad(g, lr=LR),
    "radam": lambda g: torch.optim.RAdam(g, lr=LR, decoupled_weight_decay=True),
    "nadam": lambda g: torch.optim.NAdam(g, lr=LR, decoupled_weight_decay=True),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_the_rule_is_torchs_with_decay_on_matrices_only(name: str) -> None:
    ours, theirs = net(), net()
    params = list(theirs.parameters())
    reference = REFERENCES[name](
        [
            {"params": [p for p in params if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
        ]
    )
    train(ours, made(ours, name), range(8))
    train(theirs, reference, range(8))
    assert torch.allclose(weights(ours), weights(theirs), rtol=1e-5, atol=1e-7)


def test_adamw_goes_on_as_it_always_did() -> None:
    ours, before = net(), net()
    params = list(before.parameters())
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer, old = made(ours, "adamw"), torch.optim.AdamW(groups, lr=LR, fused=True)
    for rate in (0.3, 0.01, 1e-7):
        set_lr(optimizer, rate)
        for group in old.param_groups:
            group["lr"] = rate
        train(ours, optimizer)
        train(before, old)
    assert torch.equal(weights(ours), weights(before))
    names = {id(p): n for m in (ours, before) for n, p in m.named_parameters()}
    order = [[names[id(p)] for g in o.param_groups for p in g["params"]] for o in (optimizer, old)]
    assert order[0] == order[1]


def test_lion_moves_each_weight_by_the_sign() -> None:
    """Algorithm 2 of the paper, one parameter at a time."""
    ours, plain = net(), net()
    optimizer = made(ours, "lion", betas=(0.8, 0.95))
    momenta = [torch.zeros_like(p) for p in plain.parameters()]
    for number in range(6):
        train(ours, optimizer, range(number, number + 1))
        plain.zero_grad()
        loss_of(plain, number).backward()
        with torch.no_grad():
            for p, m in zip(plain.parameters(), momenta, strict=True):
                assert p.grad is not None
                update = (0.8 * m + 0.2 * p.grad).sign()
                p -= LR * (update + (DECAY if p.ndim > 1 else 0) * p)
                m.copy_(0.95 * m + 0.05 * p.grad)
    assert torch.allclose(weights(ours), weights(plain), atol=1e-6)


def test_default_betas_of_lion_are_the_papers() -> None:
    assert made(net(), "lion").param_groups[0]["betas"] == (0.9, 0.99)


def quintic(values: Tensor) -> Tensor:
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


@pytest.mark.parametrize("shape", [(5, 5), (3, 40), (40, 3), (1, 7), (64, 32)])
def test_orthogonalize_changes_the_singular_values_alone(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    expected = u @ torch.diag(quintic(s / s.norm())) @ vt
    got = orthogonalize(matrix)
    assert got.shape == shape
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), expected, atol=1e-3)


def test_orthogonalize_makes_lengths_near_one() -> None:
    matrix = torch.randn(32, 96, generator=torch.Generator().manual_seed(2))
    values = torch.linalg.svdvals(orthogonalize(matrix * 1e-4))
    assert 0.6 < values.min() <= values.max() < 1.3
    assert not orthogonalize(torch.zeros(3, 4)).any()


def test_muon_steps_by_the_orthogonalize_nesterov_momentum() -> None:
    module = net()
    optimizer = made(module, "muon", momentum=0.8)
    before = {n: module.get_parameter(n).detach().clone() for n in HIDDEN}
    averages = {n: torch.zeros_like(p) for n, p in before.items()}
    for number in range(3):
        train(module, optimizer, range(number, number + 1))
        for name, p in before.items():
            grad = module.get_parameter(name).grad
            assert grad is not None
            averages[name] = 0.8 * averages[name] + 0.2 * grad
            update = orthogonalize((0.2 * grad + 0.8 * averages[name]).flatten(1))
            rows, columns = update.shape
            p *= 1 - LR * DECAY
            p -= LR * 0.2 * math.sqrt(max(rows, columns)) * update.view(p.shape)
            assert torch.allclose(module.get_parameter(name), p, atol=1e-5)


def test_what_muon_leaves_goes_by_adamw() -> None:
    ours, theirs = net(), net()
    for module in (ours, theirs):  # without the hidden weights both have the same gradients
        for name in HIDDEN:
            module.get_parameter(name).requires_grad = False
    with pytest.raises(UsageError, match="no parameter to update"):
        make_optimizer(ours, OptimConfig(optimizer="muon"), head="head", never=HIDDEN)
    train(ours, made(ours, "muon"), range(6))
    train(theirs, made(theirs, "adamw"), range(6))
    assert torch.equal(weights(ours), weights(theirs))


def test_muon_is_for_hidden_matrices_and_kernels() -> None:
    module = net()
    assert hidden_weights(module, head="head") == HIDDEN
    names = {id(p): n for n, p in module.named_parameters()}
    groups = made(module, "muon").param_groups
    assert {names[id(p)] for g in groups if g["muon"] for p in g["params"]} == HIDDEN
    rest = {names[id(p)]: g["weight_decay"] for g in groups if not g["muon"] for p in g["params"]}
    assert {n for n, decay in rest.items() if decay} == {"token", "embedding.weight", "head.weight"}
    attention = nn.ModuleDict(
        {"a": nn.MultiheadAttention(4, 2), "r": nn.LSTM(4, 4), "head": nn.Linear(4, 2)}
    )
    assert hidden_weights(attention, head="head") == {
        "a.in_proj_weight", "a.out_proj.weight", "r.weight_ih_l0", "r.weight_hh_l0",
    }  # fmt: skip


def test_muon_is_refused_where_it_has_nothing_to_do() -> None:
    with pytest.raises(UsageError, match="muon has no parameter to update"):
        make_optimizer(
            nn.ModuleDict({"head": nn.Linear(3, 3)}), OptimConfig(optimizer="muon"), head="head"
        )


@pytest.mark.gpu
def test_muon_is_torchs_on_cuda() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(48, 32, generator=generator)
    ours = nn.ModuleDict({"a": nn.Linear(32, 48, bias=False), "head": nn.Linear(1, 1)}).cuda()
    weight = ours.get_parameter("a.weight")
    weight.data.copy_(start)
    theirs = nn.Parameter(start.cuda())
    reference = torch.optim.Muon(
        [theirs], lr=LR, weight_decay=DECAY, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    optimizer = made(ours, "muon")
    for _ in range(4):
        grad = torch.randn(48, 32, generator=generator).cuda()
        weight.grad, theirs.grad = grad.clone(), grad.clone()
        optimizer.step()
        reference.step()
    assert torch.allclose(weight, theirs, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_lowers_the_loss(name: str) -> None:
    module = net()
    optimizer = made(module, name)
    fixed = range(1)
    first = train(module, optimizer, fixed)[0]
    for _ in range(40):
        last = train(module, optimizer, fixed)[0]
    assert last < first


def restored(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """As a training state does it: tensors by index, the groups' settings from the run."""
    state = {
        int(index): {
            key: value.contiguous() if isinstance(value, Tensor) else value
            for key, value in entries.items()
        }
        for index, entries in saved["state"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scales", [{}, {"layer_decay": 0.7, "backbone_lr": 0.5}])
def test_a_saved_state_goes_on_bit_by_bit(name: str, scales: dict[str, float]) -> None:
    whole = net()
    optimizer = made(whole, name, **scales)
    train(whole, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    assert all(
        isinstance(value, Tensor | float | int)
        for entries in saved["state"].values()
        for value in entries.values()
    )
    half = net()
    half.load_state_dict(whole.state_dict())
    again = made(half, name, **scales)
    restored(again, saved)
    train(whole, optimizer, range(3, 6))
    train(half, again, range(3, 6))
    assert torch.equal(weights(whole), weights(half))


@pytest.mark.parametrize("name", NAMES)
def test_each_group_learns_at_its_scale(name: str) -> None:
    optimizer = made(net(), name, layer_decay=0.5, backbone_lr=0.5)
    set_lr(optimizer, 0.8)
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert len(scales) == 4  # the stem, two linear layers and the head
    assert max(scales) == 1.0
    for group in optimizer.param_groups:
        assert group["lr"] == 0.8 * group["lr_scale"]


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_of_nothing_moves_nothing(name: str) -> None:
    module = net()
    optimizer = made(module, name)
    set_lr(optimizer, 0.0)
    before = weights(module)
    train(module, optimizer)
    assert torch.equal(weights(module), before)


def test_never_leaves_parameters_out() -> None:
    module = net()
    never = {n for n, _ in module.named_parameters() if not n.startswith("head")}
    optimizer = make_optimizer(module, OptimConfig(), head="head", never=never)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(module.head.weight), id(module.head.bias)}


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_scaler_skips_a_step_that_overflowed(name: str) -> None:
    """Fused rules get the scale and the flag themselves; in the first step there is no state yet."""
    scaled, plain = net(), net()
    scaled.conv.weight.requires_grad = plain.conv.weight.requires_grad = False
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer, reference = made(scaled, name), made(plain, name)
    before = weights(scaled)
    for factor in (math.inf, 1.0, 1.0):
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss_of(scaled, 0) * factor).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        if factor == math.inf:
            assert torch.equal(weights(scaled), before)
            scaled.conv.weight.requires_grad = plain.conv.weight.requires_grad = True
    train(plain, reference, range(1))
    train(plain, reference, range(1))
    assert torch.isfinite(weights(scaled)).all()
    assert torch.allclose(weights(scaled), weights(plain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_kernels_are_trained_alike(name: str) -> None:
    rows, columns = net(), net().to(memory_format=torch.channels_last)
    train(rows, made(rows, name))
    train(columns, made(columns, name))
    assert torch.allclose(weights(rows), weights(columns), rtol=1e-3, atol=1e-4)


REFUSED = [
    ({"momentum": 0.8}, "optim.momentum = 0.8 means nothing to optim.optimizer = adamw"),
    ({"optimizer": "sgd", "momentum": 0.0}, "means nothing to optim.optimizer = sgd"),
    ({"optimizer": "muon", "betas": (0.9, 0.95)}, "optim.betas = .* optim.optimizer = muon"),
    ({"scheduler": "cosine", "milestones": (0.3,)}, "optim.milestones = .* optim.scheduler = cosine"),
    ({"scheduler": "constant", "lr_min": 0.1}, "optim.lr_min = 0.1 means nothing"),
    ({"gamma": 0.5}, "optim.gamma = 0.5 means nothing to optim.scheduler = onecycle"),
    ({"scheduler": "multistep", "decay_every": 2}, "optim.decay_every"),
    ({"power": 3}, "optim.power"),
    ({"cycles": 4}, "optim.cycles"),
    ({"cycle_growth": 2}, "optim.cycle_growth"),
    ({"plateau_patience": 7}, "optim.plateau_patience"),
    ({"optimizer": "nesterov", "momentum": 0.0}, "nesterov needs optim.momentum > 0"),
    ({"scheduler": "multistep", "milestones": ()}, "optim.milestones is empty"),
    ({"betas": (0.9, 1.0)}, "each must be at least 0 and below 1"),
    ({"scheduler": "step", "decay_every": 1.5}, "neither a share of the run below 1 nor a whole number"),
    ({"scheduler": "multistep", "milestones": (0.0,)}, "neither a share"),
    ({"scheduler": "multistep", "milestones": (0.5, 2.5)}, "optim.milestones = 2.5 is neither"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_would_be_ignored_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_optim(OptimConfig(**settings))
    assert caught.value.hint or "betas" in settings


@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": "lion", "betas": (0.9, 0.98)}, {"optimizer": "muon", "momentum": 0.95},
     {"scheduler": "step", "decay_every": 1.0, "gamma": 0.2}, {"scheduler": "constant", "warmup": 0.1},
     {"scheduler": "multistep", "milestones": (0.5, 20)}, {"warmup": 0.0, "lr_min": 0.1}],
)  # fmt: skip
def test_settings_that_mean_something_are_taken(settings: dict[str, Any]) -> None:
    check_optim(OptimConfig(**settings))


def test_what_only_a_recipe_brings_may_be_ignored() -> None:
    merged = OptimConfig(optimizer="adamw", momentum=0.95, scheduler="cosine", cycles=5)
    check_optim(merged, requested=OptimConfig(optimizer="adamw", scheduler="cosine"))
    with pytest.raises(UsageError, match=r"optim\.cycles"):
        check_optim(merged, requested=OptimConfig(scheduler="cosine", cycles=5))
    # The recipe's own schedule makes sense of what the user adds to it.
    check_optim(OptimConfig(scheduler="step", gamma=0.5), requested=OptimConfig(gamma=0.5))


@pytest.mark.parametrize(
    ("name", "args", "oracle"),
    [
        ("adam", {"eps": 0.1, "amsgrad": True}, lambda p: torch.optim.Adam(p, eps=0.1, amsgrad=True)),
        ("adamw", {"eps": 0.1}, lambda p: torch.optim.AdamW(p, eps=0.1)),
        ("momentum", {"dampening": 0.3}, lambda p: torch.optim.SGD(p, momentum=0.9, dampening=0.3)),
        (
            "rmsprop",
            {"alpha": 0.5, "eps": 0.1, "centered": True},
            lambda p: torch.optim.RMSprop(p, alpha=0.5, eps=0.1, centered=True, momentum=0.9),
        ),
    ],
)
def test_arguments_of_torchs_optimizers(
    name: str, args: dict[str, Any], oracle: Callable[[Any], torch.optim.Optimizer]
) -> None:
    ours, theirs = net(), net()
    optimizer = made(ours, name, args=args)
    reference = oracle([{"params": list(theirs.parameters()), "lr": LR}])
    for group in (*optimizer.param_groups, *reference.param_groups):
        group["weight_decay"] = 0.0
    for number in range(4):
        for module, step in ((ours, optimizer), (theirs, reference)):
            step.zero_grad()
            loss_of(module, number).backward()
            step.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-6)
    with pytest.raises(UsageError, match=r"optim\.optimizer = adam: Invalid epsilon"):
        made(net(), "adam", args={"eps": -1.0})
