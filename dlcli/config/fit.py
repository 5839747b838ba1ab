"""Settings of the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlcli.config.shared import TrainingDevice
from dlcli.settings import setting


class FitConfig(TrainingDevice):
    """Training"""

    epochs: int = setting(10, "Passes over the training split.", "--epochs", "-e", ge=1)
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = setting(
        64, "Samples one optimizer step sees, or auto: what memory holds.", "--batch-size", "-b"
    )
    grad_accum_steps: int = setting(
        1, "Parts a device's share of the batch is computed in.", "--grad-accum-steps", ge=1
    )
    max_steps: int | None = setting(None, "Most optimizer steps of the run.", "--max-steps", ge=1)
    max_time: str | None = setting(None, "Longest time of the run: 90s, 30min, 2h.", "--max-time")
    overfit_batches: int | None = setting(
        None,
        "Learn this many batches by heart, as a test of model and data.",
        "--overfit-batches",
        ge=1,
    )
    grad_checkpointing: str = setting(
        "none",
        "Compute activations again instead of keeping them: none, auto or a number of segments.",
        "--grad-checkpointing",
    )
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = setting(
        "none", "torch.compile of the training step, in this mode.", "--compile"
    )
    deterministic: bool = setting(
        False, "Bit-identical runs on one device and version of torch.", "--deterministic"
    )
    seed: int = setting(0, "Of the split, the order and the weights.", "--seed", ge=0, lt=2**31)
    ema: float | None = setting(
        None, "Evaluate and keep a moving average of the weights with this decay.", "--ema", gt=0, lt=1
    )
    swa: float | None = setting(
        None, "Also average the epochs' weights from this share of the run on.", "--swa", ge=0, lt=1
    )
    monitor: str | None = setting(
        None, "Validation metric that picks the best epoch (default: by task).", "--monitor"
    )
    patience: int | None = setting(
        None, "Stop after this many epochs without a better metric.", "--patience", ge=1
    )
    min_delta: float = setting(0.0, "What counts as better, for patience and plateau.", ge=0)
    keep_best: int = setting(1, "How many of the best epochs' models are kept.", "--keep-best", ge=1)
    max_bad_steps: int = setting(
        25, "Steps in a row whose gradient is no finite number that end the run.", ge=1
    )
    checkpoint_every: str = setting(
        "1ep,5min", "When to save the state: N steps, Nmin or Nep.", "--checkpoint-every"
    )
    keep_states: int = setting(2, "How many training states are kept.", ge=1)
    tensorboard: bool = setting(False, "Write TensorBoard files too.", "--tensorboard")
    histograms: bool = setting(False, "Histograms of weights and gradients in TensorBoard, each epoch.")
    log_every: float = setting(0.5, "Seconds between progress events.", ge=0)

    @property
    def step_samples(self) -> int:
        """The batch size of a run, where "auto" has been resolved."""
        assert self.batch_size != "auto", "the batch size was not looked for yet"
        return self.batch_size
