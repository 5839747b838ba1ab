"""Settings of the optimizer and the learning rate schedule."""

from typing import Annotated, Any, Literal

from pydantic import Field

from dlcli.config.layer_patterns import parse_lr_of
from dlcli.schema import Frozen
from dlcli.settings import RegisteredName, parsed_by, setting
from dlcli.trust import OPTIMIZERS_GROUP, SCHEDULES_GROUP

# Names of registered functions: a new file in the package is a new name.
Optimizer = Annotated[
    str,
    RegisteredName(
        "optimizer",
        "dlcli.training.optim.optimizers",
        "register_optimizer",
        group=OPTIMIZERS_GROUP,
    ),
]
Scheduler = Annotated[
    str,
    RegisteredName(
        "schedule", "dlcli.training.optim.schedules", "register_schedule", group=SCHEDULES_GROUP
    ),
]


class OptimConfig(Frozen):
    """Optimizer and schedule"""

    optimizer: Optimizer = setting("adamw", "Optimizer.", "--optimizer")
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = setting(
        1e-3, "Peak learning rate; auto: from a learning rate range test.", "--lr"
    )
    weight_decay: float = setting(
        0.01, "Weight decay; not applied to norms and biases.", "--weight-decay", ge=0, advanced=True
    )
    momentum: float = setting(
        0.9,
        "Momentum factor (momentum, nesterov, rmsprop, muon).",
        "--momentum",
        ge=0,
        lt=1,
        advanced=True,
    )
    betas: tuple[float, float] | None = setting(
        None, "Betas of Adam variants and Lion (default: the optimizer's)."
    )
    layer_decay: float = setting(
        1.0,
        "Layer-wise learning rate decay: factor per layer, from the head down.",
        "--layer-decay",
        gt=0,
        le=1,
        advanced=True,
    )
    backbone_lr: float = setting(
        1.0,
        "Learning rate of the backbone, relative to the head's.",
        "--backbone-lr",
        gt=0,
        advanced=True,
    )
    head_lr: float = setting(
        3e-3, "Peak learning rate of --head-epochs.", "--head-lr", gt=0, advanced=True
    )
    lr_of: Annotated[str | None, parsed_by(parse_lr_of)] = setting(
        None,
        "Peak learning rates of layers, in place of theirs: 'fc=1e-3,layer4=1e-4'.",
        "--lr-of",
        advanced=True,
    )
    scheduler: Scheduler = setting("onecycle", "Learning rate schedule.", "--scheduler")
    warmup: float | None = setting(
        None,
        "Warm-up, as a share of all steps (default: 0.3 for onecycle, else 0).",
        "--warmup",
        ge=0,
        lt=1,
        advanced=True,
    )
    lr_min: float = setting(0.0, "Minimum learning rate, relative to the peak.", ge=0, le=1)
    gamma: float | None = setting(
        None,
        "Decay factor of step, multistep and plateau (default: 0.1); total decay of "
        "exponential (default: 0.01).",
        gt=0,
        le=1,
    )
    decay_every: float = setting(0.3, "Step size of step: a share of the run below 1, or epochs.", gt=0)
    milestones: tuple[float, ...] = setting(
        (0.5, 0.75), "Milestones of multistep: shares of the run below 1, or epochs."
    )
    power: float = setting(2.0, "Power of polynomial.", gt=0)
    cycles: int = setting(3, "Number of cycles of cosine-restarts.", ge=1)
    cycle_growth: float = setting(
        1.0, "Factor by which each cycle of cosine-restarts is longer than the last.", ge=1
    )
    plateau_patience: int = setting(2, "Patience of plateau, in epochs.", ge=0)
    plateau_cooldown: int = setting(0, "Epochs after a drop of plateau that do not count.", ge=0)
    plateau_threshold: float = setting(
        0.0, "Minimum improvement for plateau, as a share of the best value.", ge=0, lt=1
    )
    clip_grad_norm: float | None = setting(
        None, "Gradient clipping: maximum norm.", "--clip-grad-norm", gt=0, advanced=True
    )
    clip_grad_value: float | None = setting(
        None, "Gradient clipping: maximum absolute value.", "--clip-grad-value", gt=0, advanced=True
    )
    args: dict[str, Any] = setting({}, "Keyword arguments of the optimizer or the schedule.")

    @property
    def peak_lr(self) -> float:
        """Return the peak learning rate of a run, whose "auto" is resolved."""
        assert self.lr != "auto", "the learning rate is still auto"
        return self.lr
