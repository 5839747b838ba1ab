"""Settings of the training loop."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from dlcli.config.durations import CheckpointEvery, parse_time
from dlcli.config.shared import TrainingDevice, UserMetrics
from dlcli.settings import RegisteredName, parsed_by, setting


def _check_history(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Raises: ValueError unless the steps ascend from 0, each with epochs."""
    steps = [step for step, _ in pairs]
    if pairs and (steps[0] != 0 or steps != sorted(set(steps)) or min(e for _, e in pairs) < 1):
        raise ValueError("pairs of a step, ascending from 0, and epochs")
    return pairs


SinkName = Annotated[str, RegisteredName("sink", "dlcli.ui.progress", "register_sink")]


class FitConfig(UserMetrics, TrainingDevice):
    """Training"""

    epochs: int = setting(10, "Number of epochs.", "--epochs", "-e", ge=1, on_resume="allowed")
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = setting(
        64, "Global batch size; auto: the largest that fits into memory.", "--batch-size", "-b"
    )
    grad_accum_steps: int = setting(
        1,
        "Gradient accumulation steps; the batch size stays the same.",
        "--grad-accum-steps",
        ge=1,
        advanced=True,
        on_resume="allowed",
    )
    min_steps: int = setting(
        0,
        "Least number of optimizer steps: without --epochs, epochs are raised until a run has as many.",
        ge=0,
    )
    head_epochs: int = setting(
        0,
        "Of the epochs the first ones that train the head alone, on pretrained layers computed once.",
        "--head-epochs",
        ge=0,
        advanced=True,
        on_resume="forced",
    )
    max_steps: int | None = setting(
        None,
        "Stop after this many optimizer steps.",
        "--max-steps",
        ge=1,
        advanced=True,
        on_resume="allowed",
    )
    max_time: Annotated[str | None, parsed_by(parse_time)] = setting(
        None, "Stop after this time: 90s, 30min, 2h.", "--max-time", advanced=True, on_resume="allowed"
    )
    overfit_batches: int | None = setting(
        None,
        "Overfit this many batches, to test model and data.",
        "--overfit-batches",
        ge=1,
        advanced=True,
    )
    grad_checkpointing: str = setting(
        "none",
        "Activation checkpointing: none, auto or a number of segments.",
        "--grad-checkpointing",
        advanced=True,
        on_resume="allowed",
    )
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = setting(
        "none",
        "torch.compile mode of the training step.",
        "--compile",
        advanced=True,
        on_resume="allowed",
    )
    channels_last: Literal["auto", "on", "off"] = setting(
        "auto",
        "Memory format of images and kernels; auto: the faster one, by trial.",
        "--channels-last",
        advanced=True,
        on_resume="allowed",
    )
    threads: int | None = setting(
        None,
        "CPU threads of an operator, at most one per core (default: the fastest number, by trial).",
        "--threads",
        ge=1,
        advanced=True,
        on_resume="allowed",
    )
    cache_features: Literal["auto", "on", "off"] = setting(
        "auto",
        "Compute the outputs of frozen layers once; auto: where no augmentation was asked for.",
        "--cache-features",
        advanced=True,
    )
    feature_copies: int = setting(
        1,
        "Augmented versions of each sample whose features are cached; 1: the sample as it is.",
        "--feature-copies",
        ge=1,
        le=100,
        advanced=True,
    )
    deterministic: bool = setting(
        False,
        "Reproduce runs bit by bit, on one device and torch version.",
        "--deterministic",
        advanced=True,
    )
    seed: int = setting(0, "Random seed (split, order, initial weights).", "--seed", ge=0, lt=2**31)
    ema: float | None = setting(
        None, "Exponential moving average of the weights: decay.", "--ema", gt=0, lt=1, advanced=True
    )
    swa: float | None = setting(
        None,
        "Stochastic weight averaging, from this share of the run.",
        "--swa",
        ge=0,
        lt=1,
        advanced=True,
    )
    monitor: str | None = setting(
        None,
        "Validation metric that selects the best epoch (default: by task).",
        "--monitor",
        advanced=True,
    )
    patience: int | None = setting(
        None, "Early stopping: epochs without improvement.", "--patience", ge=1, on_resume="allowed"
    )
    min_delta: float = setting(0.0, "Minimum improvement, for patience and plateau.", ge=0)
    keep_best: int = setting(
        1, "Number of best models to keep.", "--keep-best", ge=1, advanced=True, on_resume="allowed"
    )
    max_bad_steps: int = setting(
        25,
        "Abort after this many consecutive steps with non-finite gradients.",
        ge=1,
        on_resume="allowed",
    )
    checkpoint_every: Annotated[str, parsed_by(CheckpointEvery.parse)] = setting(
        "1ep,5min",
        "Interval between checkpoints of the training state: N steps, Nmin or Nep.",
        "--checkpoint-every",
        advanced=True,
        on_resume="allowed",
    )
    keep_states: int = setting(2, "Number of training states to keep.", ge=1, on_resume="allowed")
    profile: int | None = setting(
        None,
        "Profile this many steps: a trace in the run folder, and the dearest operators.",
        "--profile",
        ge=1,
        advanced=True,
        on_resume="allowed",
    )
    tensorboard: bool = setting(
        False, "Log to TensorBoard too.", "--tensorboard", advanced=True, on_resume="allowed"
    )
    sinks: tuple[SinkName, ...] = setting(
        (), "More sinks for the run's events, by name.", on_resume="allowed"
    )
    histograms: bool = setting(
        False, "TensorBoard histograms of weights and gradients, every epoch.", on_resume="allowed"
    )
    log_every: float = setting(0.5, "Seconds between progress events.", ge=0, on_resume="allowed")

    epochs_history: Annotated[tuple[tuple[int, int], ...], AfterValidator(_check_history)] = setting(
        (),
        "Written by --resume --epochs: (step, epochs) pairs, the epochs that the schedule spans from "
        "that step on; without effect under other epochs.",
        on_resume="allowed",
    )

    def planned_epochs(self, step: int) -> int:
        """The epochs that the schedule spans at a step, counted from 0: a resume may change them."""
        return [epochs for first, epochs in self.planned_history() if first <= step][-1]

    def head_steps(self, step: int, planned: int) -> int:
        """The first of the ``planned`` steps at a step, which train the head alone: `head_share`."""
        return -(-planned * self.head_epochs // self.planned_epochs(step))

    @property
    def head_share(self) -> float:
        """The share of the run in which the head trains alone."""
        return min(self.head_epochs / self.epochs, 1.0)

    def with_epochs_from(self, step: int, epochs: int) -> Self:
        """These settings of a run that is resumed at ``step`` with other ``epochs``."""
        history = [pair for pair in self.planned_history() if pair[0] < step]
        if not history or history[-1][1] != epochs:
            history.append((step, epochs))
        recorded = tuple(history) if len(history) > 1 else ()
        return self.model_copy(update={"epochs": epochs, "epochs_history": recorded})

    def planned_history(self) -> tuple[tuple[int, int], ...]:
        """``epochs_history`` where it is that of ``epochs``, else as of a run that was never changed."""
        if self.epochs_history and self.epochs_history[-1][1] == self.epochs:
            return self.epochs_history
        return ((0, self.epochs),)

    @property
    def step_samples(self) -> int:
        """The batch size of a run, where "auto" has been resolved."""
        assert self.batch_size != "auto", "the batch size was not looked for yet"
        return self.batch_size
