"""Checks of a run's metrics: one function per problem, which returns a hint or None.

False alarms are worse than missed problems: users would stop reading hints. So each check requires
several epochs or steps that agree, and an effect larger than noise; the thresholds are constants below.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from dlcli.events import EpochDone, Event, RunFinished, RunStarted, StepDone

MIN_VAL_SAMPLES = 20  # with fewer, validation metrics are too noisy
# Over-fitting: rise of the validation loss, relative to its minimum and to the loss of guessing. The
# second keeps a rise from 0.010 to 0.014 from counting.
MIN_RISE = 0.15
MIN_RISE_OF_CHANCE = 0.05
MAX_WAIT_EPOCHS = 10
SPIKE_FACTOR = 20.0  # times the median gradient norm
MIN_SPIKES = 3
NORM_WINDOW = 200  # logged steps
FIRST_NORMS = 20
VANISHING_NORM = 1e-7
FP16_SKIPS = 10  # a gradient scaler starts with a large scale and skips steps until it fits


@dataclass
class History:
    """The events of a run so far.

    ``norms`` are (step, gradient norm) of the last logged steps, ``first_norms`` the norms of the first
    ones. ``topics`` are those of the hints that were given.
    """

    started: RunStarted | None = None
    steps: deque[StepDone] = field(default_factory=lambda: deque(maxlen=5))
    epochs: list[EpochDone] = field(default_factory=list)
    finished: RunFinished | None = None
    norms: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=NORM_WINDOW))
    first_norms: list[float] = field(default_factory=list)
    first_loss: float = math.nan
    topics: set[str] = field(default_factory=set)

    def add(self, event: Event) -> None:
        """Add an event."""
        if isinstance(event, RunStarted):
            self.started = event
        elif isinstance(event, RunFinished):
            self.finished = event
        elif isinstance(event, EpochDone):
            self.epochs.append(event)
        elif isinstance(event, StepDone):
            self.steps.append(event)
            if math.isnan(self.first_loss):
                self.first_loss = event.loss
            if event.grad_norm is not None and math.isfinite(event.grad_norm):
                self.norms.append((event.step, event.grad_norm))
                if len(self.first_norms) < FIRST_NORMS:
                    self.first_norms.append(event.grad_norm)

    def setting(self, key: str) -> Any:
        """The value of a setting by its dotted key; None if unknown."""
        return None if self.started is None else self.started.settings.get(key)

    def chance(self) -> tuple[float, str] | None:
        """The training loss of a model that guesses, and its description; None if unknown."""
        if self.started is None or self.setting("loss.teacher") is not None:
            return None
        task, classes = self.started.task, self.started.num_classes
        loss, balance = self.setting("loss.name"), self.setting("data.balance") or "none"
        if task == "classification" and loss in (None, "cross_entropy") and balance != "focal":
            return math.log(classes), f"guessing among {classes} classes gives {math.log(classes):.3g}"
        if task == "multilabel" and loss in (None, "bce") and balance == "none":
            return math.log(2), f"guessing gives {math.log(2):.3g} per label"
        if task == "regression" and loss in (None, "mse"):
            return 1.0, "always predicting the mean gives 1"
        return None

    def val(self, name: str) -> list[float]:
        """A validation metric of each epoch; NaN where it was not computed."""
        return [epoch.val.get(name, math.nan) for epoch in self.epochs]


def skipped(history: History) -> str | None:
    """Detect skipped steps, whose gradient was NaN or infinite."""
    last = history.steps[-1] if history.steps else None
    fp16 = history.started is not None and "fp16" in history.started.amp
    if last is None or last.skipped <= (FP16_SKIPS + last.step // 500 if fp16 else 0):
        return None
    ways = ["a lower --lr"]
    if history.setting("optim.clip_grad_norm") is None:
        ways.append("--clip-grad-norm 1.0")
    if history.started is not None and history.started.amp != "none":
        ways.append("--amp none")
    noun = "step was" if last.skipped == 1 else "steps were"
    return (
        f"{last.skipped:,} of {last.step:,} {noun} skipped: the gradient was NaN or infinite. "
        f"Try {listed(ways)}. Extremely large values in the data are another cause"
    )


def exploding(history: History) -> str | None:
    """Detect repeated spikes of the gradient norm."""
    clipped = ("optim.clip_grad_norm", "optim.clip_grad_value")
    few = len(history.first_norms) < FIRST_NORMS
    if few or any(history.setting(key) is not None for key in clipped):
        return None
    # Late in training the median norm may be near 0, so a spike must also be large against the norms of
    # the first steps.
    typical = max(median(norm for _, norm in history.norms), median(history.first_norms))
    spikes = [(norm, step) for step, norm in history.norms if norm > SPIKE_FACTOR * typical > 0]
    if len(spikes) < MIN_SPIKES:
        return None
    norm, step = max(spikes)
    return (
        f"exploding gradients: the gradient norm was more than {SPIKE_FACTOR:.0f} times its median of "
        f"{typical:.3g} at {len(spikes)} of {len(history.norms)} logged steps, up to {norm:.3g} at step "
        f"{step:,}. Try --clip-grad-norm 1.0"
    )


def vanishing(history: History) -> str | None:
    """Detect a gradient norm near 0 while the loss is still large."""
    # With a loss near 0 a gradient near 0 is expected.
    recent = list(history.steps)
    small = all(step.grad_norm is not None and step.grad_norm < VANISHING_NORM for step in recent)
    high_loss = all(step.loss >= 0.5 * history.first_loss > 0 for step in recent)
    if len(recent) < 5 or not small or not high_loss:
        return None
    last = recent[-1]
    return (
        f"vanishing gradients: the gradient norm is {last.grad_norm:.2g} at step {last.step:,} while "
        f"the loss is still {last.loss:.3g}, so the weights no longer change. Try fewer layers, another "
        "activation or pretrained weights; another --lr does not help"
    )


def diverging(history: History) -> str | None:
    """Detect a training loss that was low and is high again."""
    losses = [epoch.loss for epoch in history.epochs]
    if len(losses) < 3 or not all(map(math.isfinite, losses)):
        return None
    best = min(losses[:-1])
    bound = max(2 * best, best + 0.5 * (losses[0] - best))
    if not _rate_has_settled(history):
        # Near its peak the rate makes a run worse that ends well, unless what was learned is lost.
        chance = history.chance()
        bound = max(bound, losses[0] if chance is None else chance[0])
    if min(losses[-2:]) <= bound or best <= 0:
        return None
    ways = ["a lower --lr"]
    if history.setting("optim.clip_grad_norm") is None:
        ways.append("--clip-grad-norm 1.0")
    return (
        f"training diverges: train loss rose from {best:.3g} (epoch "
        f"{history.epochs[losses.index(best)].epoch}) to {losses[-1]:.3g} (epoch "
        f"{history.epochs[-1].epoch}). Try {listed(ways)}"
    )


def not_learning(history: History) -> str | None:
    """Detect a training loss that never fell below that of guessing."""
    chance = history.chance()
    if chance is None or not _late_enough(history):
        return None
    level, description = chance
    losses = [epoch.loss for epoch in history.epochs]
    if not all(loss >= 0.98 * level for loss in losses):  # also false for NaN
        return None
    return (
        f"the model does not learn: train loss is {losses[-1]:.3g} after epoch "
        f"{history.epochs[-1].epoch}, and {description}. Try a --lr ten times smaller and ten times "
        "larger, or --lr auto; --overfit-batches 1 tests whether this model can fit this data at all"
    )


def one_class(history: History) -> str | None:
    """Detect a classifier that predicts a single class."""
    started = history.started
    if started is None or started.task != "classification" or not _late_enough(history):
        return None
    scores, chance = history.val("balanced_accuracy"), 1 / started.num_classes
    at_chance = all(abs(score - chance) < 1e-9 for score in scores[-3:])
    # Until batch norm statistics have settled, an epoch may be slightly better by chance.
    never_better = all((score - chance) / (1 - chance) <= 0.05 for score in scores)
    if not (at_chance and never_better) or started.samples.get("val", 0) < MIN_VAL_SAMPLES:
        return None
    ways = ["another --lr (or --lr auto)"]
    if (history.setting("data.balance") or "none") == "none":
        ways.insert(0, "--balance weights where the classes are of unequal size")
    return (
        "the model predicts the same class for every val sample: balanced_accuracy is "
        f"{scores[-1]:.3g}, that of 1 of {started.num_classes} classes, after epoch "
        f"{history.epochs[-1].epoch}. Try {listed(ways)}"
    )


def _late_enough(history: History) -> bool:
    """Whether a slow model would have started to learn: a third of the run, after warm-up."""
    if len(history.epochs) < 3:
        return False
    last, warmup = history.epochs[-1], history.setting("optim.warmup")
    if warmup is None:
        warmup = 0.3 if history.started and history.started.scheduler == "onecycle" else 0.0
    return last.step >= 50 and last.epoch >= max(3.0, last.epochs * max(1 / 3, warmup + 0.05))


def other_data(history: History) -> str | None:
    """Detect a high training accuracy with validation accuracy at chance, in every epoch."""
    started = history.started
    if started is None or started.task != "classification" or not _can_judge_val(history):
        return None
    last, chance = history.epochs[-1], 1 / started.num_classes
    best = max(history.val("balanced_accuracy"))
    guessed = not _beats_guessing(history)
    learned = last.accuracy is not None and (last.accuracy - chance) / (1 - chance) >= 0.7
    # With one dominant class, accuracy is high and balanced_accuracy is not, on both splits; the losses
    # tell whether the splits differ.
    val_loss = min(history.val("loss"))
    losses_differ = val_loss >= max(2 * last.loss, 0.9 * math.log(started.num_classes))
    # Running statistics of batch norms need some hundred steps before val means anything.
    if last.epoch < 5 or last.step < 200 or not (guessed and learned and losses_differ):
        return None
    return (
        f"no generalisation from train to val: train accuracy is {last.accuracy:.3g}, val "
        f"balanced_accuracy never above {best:.3g} in {last.epoch} epochs, and guessing gives "
        f"{chance:.3g}. Either val has other data or other labels than train, or the labels are "
        f"random. Compare the splits: dlcli data {started.data}"
    )


def over_fitting(history: History) -> str | None:
    """Detect a validation loss that rises while the training loss falls."""
    if not _can_judge_val(history):
        return None
    epochs, losses = history.epochs, history.val("loss")
    last = epochs[-1]
    if not all(map(math.isfinite, [*losses, *(epoch.loss for epoch in epochs)])):
        return None
    wait = min(max(3, math.ceil(last.epochs / 10)), MAX_WAIT_EPOCHS)
    at = losses.index(min(losses))
    improved = max((i for i, epoch in enumerate(epochs) if epoch.improved), default=0)
    peak = _peak_epoch(epochs)
    if len(epochs) - 1 - max(at, improved, peak) < wait or not _rate_has_settled(history):
        return None  # a high rate makes validation worse for some epochs, in a run that ends well
    chance = history.chance()
    if chance is not None and losses[at] >= 0.95 * chance[0] and not _beats_guessing(history):
        return None  # val was always at chance: another check reports that
    chance_loss = epochs[0].loss if chance is None else chance[0]
    rise, train_loss = min(losses[-3:]) - losses[at], epochs[at].loss
    rises = rise >= max(MIN_RISE * losses[at], MIN_RISE_OF_CHANCE * chance_loss)
    if not rises or last.loss > 0.9 * train_loss or min(losses[-3:]) <= last.loss:
        return None
    # Patience must not have ended the run before the rate began to fall.
    patience = wait if min(at, improved) >= peak else None
    return (
        f"over-fitting: val loss rose from {losses[at]:.3g} (epoch {epochs[at].epoch}) to "
        f"{losses[-1]:.3g} (epoch {last.epoch}) while train loss fell from {train_loss:.3g} to "
        f"{last.loss:.3g}. The best epoch is kept. {_against_over_fitting(history, patience)}"
    )


def _beats_guessing(history: History) -> bool:
    """Whether a classifier's validation was ever clearly better than guessing."""
    started, scores = history.started, history.val("balanced_accuracy")
    if started is None or started.task != "classification":
        return False
    chance = 1 / started.num_classes
    return (max(scores) - chance) / (1 - chance) > 0.1  # false for NaN


def _peak_epoch(epochs: list[EpochDone]) -> int:
    """The index of the first epoch that ended at the highest learning rate."""
    highest = max(epoch.lr for epoch in epochs)
    return next((i for i, epoch in enumerate(epochs) if epoch.lr >= 0.99 * highest), 0)


def _rate_has_settled(history: History) -> bool:
    """Whether the rate is below half of its peak, or of a schedule that does not lower it by itself."""
    if history.started is not None and history.started.scheduler in ("constant", "plateau"):
        return True
    return history.epochs[-1].lr <= 0.5 * max(epoch.lr for epoch in history.epochs)


def gap(history: History) -> str | None:
    """Detect, after the run, a large gap between training and validation accuracy."""
    started = history.started
    if started is None or started.task != "classification" or not _can_judge_val(history):
        return None
    last = history.epochs[-1]
    train, val, samples = last.accuracy, last.val.get("accuracy", math.nan), started.samples["val"]
    if train is None:
        return None
    noise = 3 * math.sqrt(max(val * (1 - val), 0) / samples)
    if not (train - val >= max(0.1, noise) and 1 - val >= 5 * (1 - train)):  # also false for NaN
        return None
    return (
        f"over-fitting: accuracy is {train:.3g} on train and {val:.3g} on val after epoch {last.epoch}. "
        f"{_against_over_fitting(history, None)}"
    )


def _can_judge_val(history: History) -> bool:
    """Whether validation metrics mean anything: not with overfit_batches or too few samples."""
    if not history.epochs or history.setting("fit.overfit_batches") is not None:
        return False
    return history.started is not None and history.started.samples.get("val", 0) >= MIN_VAL_SAMPLES


def _against_over_fitting(history: History, wait: int | None) -> str:
    ways = ["more data", "a higher --weight-decay", "a smaller model"]
    level = history.setting("augment.level")
    if history.started is not None and history.started.kind == "image" and level != "strong":
        ways.insert(1, f"--augment {'strong' if level == 'standard' else 'standard'}")
    stop = wait is not None and history.setting("fit.patience") is None
    return f"Try {listed(ways)}" + (f". --patience {wait} would stop the run early" if stop else "")


def rate_never_fell(history: History) -> str | None:
    """Detect, after a run at a high rate, that it was still improving, or no longer improved."""
    epochs, finished = history.epochs, history.finished
    if finished is None or len(epochs) < 6 or not _can_judge_val(history):
        return None
    losses, last = history.val("loss"), epochs[-1]
    if not all(map(math.isfinite, losses)):
        return None
    high_rate = last.lr >= 0.9 * max(epoch.lr for epoch in epochs)
    # Also after a decay, which lowers the loss at the end of every run, where val is as good as train.
    steadily = all(after < before for before, after in pairwise(losses[-4:]))
    both_fall = steadily and last.loss <= 0.98 * epochs[-4].loss
    unfinished = high_rate or (both_fall and last.loss >= 0.8 * losses[-1] > 0)
    ended = finished.stopped_early or finished.reason  # ended by a limit other than epochs
    if not ended and unfinished and last.improved and losses[-1] <= 0.98 * losses[-4]:
        return (
            f"the last epoch was the best, and val loss was still falling: from {losses[-4]:.3g} to "
            f"{losses[-1]:.3g} in 3 epochs. To train longer: dlcli train --resume {finished.run} "
            f"--epochs {2 * last.epochs}"
        )
    at = losses.index(min(losses))
    if (
        not high_rate
        or "generalisation" in history.topics
        or len(epochs) - 1 - at < max(3, len(epochs) / 3)
    ):
        return None
    return (
        f"val loss has not fallen since epoch {epochs[at].epoch} of {last.epoch}, and the learning "
        f"rate was still {last.lr:.3g} at the end. A schedule that decays it (--scheduler onecycle or "
        "cosine) mostly gives a better model"
    )


def listed(ways: list[str]) -> str:
    """Return ways out as words: "a, b or c"."""
    return ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"
