"""Select, check and build the loss of a run."""

from __future__ import annotations

from torch import Tensor

from dlcli.config import LossConfig
from dlcli.errors import UsageError
from dlcli.keyword_settings import check_args, check_ignored, keywords
from dlcli.task import TaskKind, TaskSpec
from dlcli.training.losses.base import LOSSES, Loss, LossBuilder, LossContext
from dlcli.training.losses.user_loss import is_user_loss, load_user_loss

DEFAULT_LOSS: dict[TaskKind, str] = {
    "classification": "cross_entropy",
    "multilabel": "bce",
    "regression": "mse",
    "forecast": "mse",
    "seq2seq": "cross_entropy",
    "embedding": "triplet",
}


def losses_for(kind: TaskKind) -> tuple[str, ...]:
    """Names of the losses of a task, its default first."""
    default = DEFAULT_LOSS[kind]
    names = [key.partition("/")[2] for key in LOSSES.names() if key.startswith(f"{kind}/")]
    return (default, *(name for name in names if name != default))


def loss_name(task: TaskSpec, config: LossConfig, *, focal: bool = False) -> str:
    """The name of the loss in the settings, else the default of the task.

    ``focal`` is True with ``--balance focal``. Raises: UsageError when the loss does not fit the task,
    or contradicts ``focal``.
    """
    names = losses_for(task.kind)
    name = config.name or ("focal" if focal else names[0])
    if name not in names and not is_user_loss(config):
        option = f"--loss {name}" if config.name else "--balance focal"
        instead = "; triplet is for --task embedding" if name == "triplet" else ""
        raise UsageError(
            f"{option} is not available for {task.kind}",
            hint=f"available: {', '.join(names)}{instead}",
        )
    if focal and name != "focal":
        raise UsageError(
            f"--loss {name} and --balance focal exclude each other", hint="remove one of them"
        )
    return name


def check_loss(task: TaskSpec, config: LossConfig, *, focal: bool = False) -> None:
    """Refuse a loss that does not fit the task, and settings that the loss would ignore.

    Raises: UsageError; DlcliError from the user's code.
    """
    name = loss_name(task, config, focal=focal)
    builders: dict[str, list[LossBuilder]] = {}
    for key, build in LOSSES.entries():
        builders.setdefault(key.partition("/")[2], []).append(build)
    check_ignored("loss", "name", name, builders, config)
    if is_user_loss(config):
        load_user_loss(LossContext(task), config)
        return
    check_args("loss.args", config, [LOSSES.get(f"{task.kind}/{name}")])


def make_loss(
    task: TaskSpec, config: LossConfig, *, class_weights: Tensor | None = None, focal: bool = False
) -> Loss:
    """Build the loss of a run.

    ``class_weights`` weight each class of a classifier, or the positive samples of each label of a
    multilabel task (`dlcli.training.class_balance` computes both); they change the sum, never the
    count, so class weights should have a mean of 1 over the training samples. ``focal`` is True with
    ``--balance focal``. Raises: UsageError when the loss does not fit the task; DlcliError from the
    user's code.
    """
    name = loss_name(task, config, focal=focal)
    has_classes = task.kind in ("classification", "multilabel")
    assert class_weights is None or has_classes, f"{task.kind} has no classes to weigh"
    context = LossContext(task, class_weights)
    if is_user_loss(config):
        return load_user_loss(context, config)
    build = LOSSES.get(f"{task.kind}/{name}")
    return build(context, **keywords(build, config))
