"""Settings of fine-tuning after pruning and of quantization-aware training."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from dlcli.config.optim import Optimizer, Scheduler
from dlcli.config.shared import TrainingDevice
from dlcli.errors import UsageError
from dlcli.settings import setting, typed_flag


class FinetuneConfig(TrainingDevice):
    """Fine-tuning (defaults: the settings of the model's own run)"""

    epochs: int | None = setting(
        None,
        "Fine-tuning epochs (default: half of the run's for pruning, a tenth for QAT).",
        "--epochs",
        "-e",
        ge=0,
    )
    lr: float | None = setting(
        None,
        "Peak learning rate (default: the run's for pruning, a fiftieth of it for QAT).",
        "--lr",
        gt=0,
    )
    batch_size: int | None = setting(
        None, "Global batch size (default: the run's).", "--batch-size", "-b", ge=1, advanced=True
    )
    optimizer: Optimizer | None = setting(
        None, "Optimizer (default: the run's).", "--optimizer", advanced=True
    )
    scheduler: Scheduler | None = setting(
        None, "Learning rate schedule (default: cosine with warm-up).", "--scheduler", advanced=True
    )
    distill: bool = setting(
        True,
        "Distillation: use the original model as teacher (classifiers only).",
        "--distill/--no-distill",
        advanced=True,
    )
    seed: int | None = setting(
        None, "Random seed (default: the run's).", "--seed", ge=0, lt=2**31, advanced=True
    )
    max_steps: int | None = setting(
        None, "Stop after this many optimizer steps.", "--max-steps", ge=1, advanced=True
    )


def refuse_finetuning(
    settings: type[BaseModel],
    values: Mapping[str, Any],
    reason: str,
    *,
    hint: str | None = None,
    used: tuple[str, ...] = (),
) -> None:
    """Refuse settings of ``finetune`` where nothing is trained, but for the ``used`` ones.

    ``reason`` continues a sentence that begins with the option. Raises: UsageError.
    """
    for name, value in values.items():
        if name not in used:
            raise UsageError(f"{typed_flag(settings, f'finetune.{name}', value)} {reason}", hint=hint)
