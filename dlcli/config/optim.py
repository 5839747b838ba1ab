"""Settings of the optimizer and the learning rate schedule."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dlcli.settings import RegisteredName, setting
from dlcli.task import Frozen

# Names of registered functions: a new file in the package is a new name.
Optimizer = Annotated[
    str, RegisteredName("optimizer", "dlcli.training.optim.optimizers", "register_optimizer")
]
Scheduler = Annotated[
    str, RegisteredName("schedule", "dlcli.training.optim.schedules", "register_schedule")
]


class OptimConfig(Frozen):
    """Optimizer and schedule"""

    optimizer: Optimizer = setting("adamw", "Update rule.", "--optimizer")
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = setting(
        1e-3, "Peak learning rate, or auto: found by a short sweep.", "--lr"
    )
    weight_decay: float = setting(
        0.01, "Decay of weights; norms and biases are left alone.", "--weight-decay", ge=0
    )
    momentum: float = setting(
        0.9, "Of momentum, nesterov, rmsprop and muon; sgd has none.", "--momentum", ge=0, lt=1
    )
    betas: tuple[float, float] | None = setting(
        None, "Decay rates of the averages of adam's family and lion (default: the optimizer's)."
    )
    layer_decay: float = setting(
        1.0,
        "Each layer learns at this share of the rate of the one above it.",
        "--layer-decay",
        gt=0,
        le=1,
    )
    backbone_lr: float = setting(
        1.0, "Rate of everything below the head, as a share of the head's.", "--backbone-lr", gt=0
    )
    scheduler: Scheduler = setting("onecycle", "Shape of the learning rate over the run.", "--scheduler")
    warmup: float | None = setting(
        None,
        "Warm-up, as a share of all steps (default: 0.3 for onecycle, else none).",
        "--warmup",
        ge=0,
        lt=1,
    )
    lr_min: float = setting(
        0.0, "Lowest rate of the falling schedules, as a share of the peak.", ge=0, le=1
    )
    gamma: float | None = setting(
        None,
        "Factor of each drop of step, multistep and plateau (default: 0.1); for exponential, of the "
        "whole run (default: 0.01).",
        gt=0,
        le=1,
    )
    decay_every: float = setting(
        0.3, "Distance between the drops of step: a share of the run, or whole epochs.", gt=0
    )
    milestones: tuple[float, ...] = setting(
        (0.5, 0.75), "Where multistep drops: shares of the run, or whole epochs."
    )
    power: float = setting(2.0, "Exponent of polynomial.", gt=0)
    cycles: int = setting(3, "Cycles of cosine-restarts.", ge=1)
    cycle_growth: float = setting(1.0, "Length of each such cycle over that of the one before.", ge=1)
    plateau_patience: int = setting(2, "Epochs without a better metric before plateau drops.", ge=0)
    clip_grad_norm: float | None = setting(None, "Largest gradient norm.", "--clip-grad-norm", gt=0)
    clip_grad_value: float | None = setting(
        None, "Largest value in a gradient.", "--clip-grad-value", gt=0
    )
    args: dict[str, Any] = setting({}, "Arguments of the optimizer's or the schedule's own.")

    @property
    def peak_lr(self) -> float:
        """The rate of a run, where "auto" has been resolved."""
        assert self.lr != "auto", "the learning rate was not looked for yet"
        return self.lr
