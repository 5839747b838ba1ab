"""Settings of the loss and of distillation."""

from typing import Annotated, Any

from dlcli.schema import Frozen
from dlcli.settings import PathText, RegisteredName, setting
from dlcli.trust import LOSSES_GROUP

# A registered function: a new file in the package is a new name.
LossName = Annotated[
    str, RegisteredName("loss", "dlcli.training.losses", "register_loss", group=LOSSES_GROUP)
]


class LossConfig(Frozen):
    """Loss"""

    name: LossName | None = setting(None, "Loss (default: by task).", "--loss")
    label_smoothing: float = setting(
        0.0, "Label smoothing.", "--label-smoothing", ge=0, lt=1, advanced=True
    )
    focal_gamma: float = setting(2.0, "Focal loss: focusing parameter gamma.", ge=0)
    huber_delta: float = setting(1.0, "Huber delta / smooth L1 beta, in scaled units.", gt=0)
    margin: float = setting(0.2, "Triplet margin.", gt=0)
    teacher: PathText = setting(
        None, "Knowledge distillation: artifact of the teacher.", "--teacher", advanced=True
    )
    distill_alpha: float = setting(
        0.5,
        "Knowledge distillation: weight of the teacher's term in the loss.",
        "--distill-alpha",
        ge=0,
        le=1,
        advanced=True,
    )
    temperature: float = setting(
        2.0, "Knowledge distillation: softmax temperature.", "--temperature", gt=0, advanced=True
    )
    args: dict[str, Any] = setting({}, "Keyword arguments of the loss.")
