"""Settings of the loss and of distillation."""

from __future__ import annotations

from typing import Annotated, Any

from dlcli.settings import RegisteredName, setting
from dlcli.task import Frozen

# A registered function: a new file in the package is a new name.
LossName = Annotated[str, RegisteredName("loss", "dlcli.training.losses", "register_loss")]


class LossConfig(Frozen):
    """Loss"""

    name: LossName | None = setting(None, "What is minimised (default: by task).", "--loss")
    label_smoothing: float = setting(
        0.0, "Share of the target spread over all classes.", "--label-smoothing", ge=0, lt=1
    )
    focal_gamma: float = setting(2.0, "How little what is right already counts in focal.", ge=0)
    huber_delta: float = setting(
        1.0, "Where huber and smooth_l1 turn from square to straight, in scaled units.", gt=0
    )
    margin: float = setting(
        0.2, "By how much triplet wants another class farther off than the own.", gt=0
    )
    teacher: str | None = setting(
        None, "A trained artifact whose answers are learnt too (distillation).", "--teacher"
    )
    distill_alpha: float = setting(
        0.5, "Share of the teacher's answers in the loss.", "--distill-alpha", ge=0, le=1
    )
    temperature: float = setting(2.0, "How soft the teacher's answers are.", "--temperature", gt=0)
    args: dict[str, Any] = setting({}, "Arguments of the loss's own.")
