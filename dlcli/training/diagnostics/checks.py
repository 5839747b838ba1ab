"""What is looked for in a run's figures: one function a fault, which gives a sentence or None.

A false alarm costs more than silence: it sends people after faults that are not there, and then they
read no hint at all. So each check wants several epochs or steps that agree, and a size that noise does
not reach; the bounds stand at the top.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from dlcli.events import EpochDone, Event, RunFinished, RunStarted, StepDone

FEWEST_VAL = 20  # validation samples; fewer say little about how well a model carries over
RISE = 0.15  # of the lowest validation loss, and
RISE_OF_SCALE = 0.05  # of what guessing costs: a loss of 0.010 that becomes 0.014 is no over-fitting
LONGEST_WAIT = 10  # epochs
SPIKE = 20.0  # times the usual gradient norm
SPIKES = 3
NORMS = 200  # that are looked back on
FIRST_NORMS = 20
NO_GRADIENT = 1e-7
FP16_SKIPS = 10  # a gradient scaler begins too high and skips until it has found its factor


@dataclass
class History:
    """What has happened so far; ``norms`` are (step, gradient norm) of the last logged steps.

    ``topics`` are those that were spoken of.
    """

    started: RunStarted | None = None
    steps: deque[StepDone] = field(default_factory=lambda: deque(maxlen=5))
    epochs: list[EpochDone] = field(default_factory=list)
    finished: RunFinished | None = None
    norms: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=NORMS))
    first_norms: list[float] = field(default_factory=list)
    first_loss: float = math.nan
    topics: set[str] = field(default_factory=set)

    def add(self, event: Event) -> None:
        """Remember an event."""
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
        """A setting by its dotted key; None where it is not known."""
        return None if self.started is None else self.started.settings.get(key)

    def chance(self) -> tuple[float, str] | None:
        """The training loss of a model that has learned nothing, and what gives it; None if unknown."""
        if self.started is None or self.setting("loss.teacher") is not None:
            return None
        task, classes = self.started.task, self.started.num_classes
        loss, balance = self.setting("loss.name"), self.setting("data.balance") or "none"
        if task == "classification" and loss in (None, "cross_entropy") and balance != "focal":
            return math.log(classes), f"guessing among {classes} classes gives {math.log(classes):.3g}"
        if task == "multilabel" and loss in (None, "bce") and balance == "none":
            return math.log(2), f"guessing gives {math.log(2):.3g} a label"
        if task == "regression" and loss in (None, "mse"):
            return 1.0, "always answering the mean gives 1"
        return None

    def val(self, name: str) -> list[float]:
        """A validation metric by epoch; NaN where it was not measured."""
        return [epoch.val.get(name, math.nan) for epoch in self.epochs]


def skipped(history: History) -> str | None:
    """Steps whose gradient was NaN or infinite."""
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
        f"{last.skipped:,} of {last.step:,} {noun} skipped: the gradient was no finite number. "
        f"What helps: {_listed(ways)}. Values in the data that are far too large do this too"
    )


def exploding(history: History) -> str | None:
    """Gradient norms far above the usual ones, several times."""
    clipped = ("optim.clip_grad_norm", "optim.clip_grad_value")
    few = len(history.first_norms) < FIRST_NORMS
    if few or any(history.setting(key) is not None for key in clipped):
        return None
    # Late in training the usual norm is near 0, and a step that matters is many times that: so a
    # spike is one against the norms of the beginning too.
    usual = max(median(norm for _, norm in history.norms), median(history.first_norms))
    spikes = [(norm, step) for step, norm in history.norms if norm > SPIKE * usual > 0]
    if len(spikes) < SPIKES:
        return None
    norm, step = max(spikes)
    return (
        f"the gradient norm jumps: it was over {SPIKE:.0f} times its usual {usual:.3g} at {len(spikes)} "
        f"of {len(history.norms)} logged steps, {norm:.3g} at step {step:,}. "
        "--clip-grad-norm 1.0 bounds such steps"
    )


def vanishing(history: History) -> str | None:
    """No gradient though the loss is still large."""
    # Without an error there is no gradient either: then all is well.
    recent = list(history.steps)
    small = all(step.grad_norm is not None and step.grad_norm < NO_GRADIENT for step in recent)
    wrong = all(step.loss >= 0.5 * history.first_loss > 0 for step in recent)
    if len(recent) < 5 or not small or not wrong:
        return None
    last = recent[-1]
    return (
        f"gradients vanish: their norm is {last.grad_norm:.2g} at step {last.step:,} while the loss is "
        f"still {last.loss:.3g}, so the weights stand still. Another --lr does not help; fewer layers, "
        "another activation, or weights that are trained already do"
    )


def diverging(history: History) -> str | None:
    """A train loss that was low and is high again."""
    losses = [epoch.loss for epoch in history.epochs]
    if len(losses) < 3 or not all(map(math.isfinite, losses)):
        return None
    best = min(losses[:-1])
    bound = max(2 * best, best + 0.5 * (losses[0] - best))
    if min(losses[-2:]) <= bound or best <= 0:
        return None
    ways = ["a lower --lr"]
    if history.setting("optim.clip_grad_norm") is None:
        ways.append("--clip-grad-norm 1.0")
    return (
        f"training breaks down: train loss rose from {best:.3g} (epoch "
        f"{history.epochs[losses.index(best)].epoch}) to {losses[-1]:.3g} (epoch "
        f"{history.epochs[-1].epoch}). What helps: {_listed(ways)}"
    )


def not_learning(history: History) -> str | None:
    """A train loss that never got below what guessing costs."""
    chance = history.chance()
    if chance is None or not _late_enough(history):
        return None
    level, what = chance
    losses = [epoch.loss for epoch in history.epochs]
    if not all(loss >= 0.98 * level for loss in losses):  # NaN is no answer
        return None
    return (
        f"nothing is learned: train loss is {losses[-1]:.3g} after epoch {history.epochs[-1].epoch}, "
        f"and {what}. Try a --lr ten times smaller and ten times larger, or --lr auto; "
        "--overfit-batches 1 shows whether this model can learn this data at all"
    )


def one_class(history: History) -> str | None:
    """A classifier that gives one answer."""
    started = history.started
    if started is None or started.task != "classification" or not _late_enough(history):
        return None
    scores, chance = history.val("balanced_accuracy"), 1 / started.num_classes
    alike = all(abs(score - chance) < 1e-9 for score in scores[-3:])
    # Before the statistics of batch norms are right, an epoch may be a little better by chance.
    never = all((score - chance) / (1 - chance) <= 0.05 for score in scores)
    if not (alike and never) or started.samples.get("val", 0) < FEWEST_VAL:
        return None
    ways = ["another --lr (or --lr auto)"]
    if (history.setting("data.balance") or "none") == "none":
        ways.insert(0, "--balance weights where the classes are of unequal size")
    return (
        f"every val sample gets the same class: balanced_accuracy is {scores[-1]:.3g}, which is 1 of "
        f"{started.num_classes} classes, after epoch {history.epochs[-1].epoch}. What helps: "
        f"{_listed(ways)}"
    )


def _late_enough(history: History) -> bool:
    """Whether a model that learns slowly would have begun: a third of the run, warm-up over."""
    if len(history.epochs) < 3:
        return False
    last, warmup = history.epochs[-1], history.setting("optim.warmup")
    if warmup is None:
        warmup = 0.3 if history.started and history.started.scheduler == "onecycle" else 0.0
    return last.step >= 50 and last.epoch >= max(3.0, last.epochs * max(1 / 3, warmup + 0.05))


def other_data(history: History) -> str | None:
    """Train is known and val is guessed, from the beginning."""
    started = history.started
    if started is None or started.task != "classification" or not _can_judge_val(history):
        return None
    last, chance = history.epochs[-1], 1 / started.num_classes
    best = max(history.val("balanced_accuracy"))
    guessed = (best - chance) / (1 - chance) <= 0.1
    known = last.accuracy is not None and (last.accuracy - chance) / (1 - chance) >= 0.7
    # Of one large class and a few others, accuracy is high and balanced_accuracy is not, on both splits.
    val_loss = min(history.val("loss"))
    apart = val_loss >= max(2 * last.loss, 0.9 * math.log(started.num_classes))
    # Running statistics of batch norms need some hundred steps before val means anything.
    if last.epoch < 5 or last.step < 200 or not (guessed and known and apart):
        return None
    return (
        f"what is learned on train is of no use on val: train accuracy is {last.accuracy:.3g}, val "
        f"balanced_accuracy never above {best:.3g} in {last.epoch} epochs, and guessing gives "
        f"{chance:.3g}. Either val holds other data or other labels than train, or the labels are "
        f"chance. dlcli data {started.data} shows them"
    )


def over_fitting(history: History) -> str | None:
    """A val loss that rises while train loss falls."""
    if not _can_judge_val(history):
        return None
    epochs, losses = history.epochs, history.val("loss")
    last = epochs[-1]
    if not all(map(math.isfinite, [*losses, *(epoch.loss for epoch in epochs)])):
        return None
    wait = min(max(3, math.ceil(last.epochs / 10)), LONGEST_WAIT)
    at = losses.index(min(losses))
    better = max((i for i, epoch in enumerate(epochs) if epoch.improved), default=0)
    if len(epochs) - 1 - max(at, better) < wait:
        return None
    chance = history.chance()
    if chance is not None and losses[at] >= 0.95 * chance[0]:
        return None  # val was never known: that is another fault
    scale = epochs[0].loss if chance is None else chance[0]
    rise, then = min(losses[-3:]) - losses[at], epochs[at].loss
    rises = rise >= max(RISE * losses[at], RISE_OF_SCALE * scale)
    if not rises or last.loss > 0.9 * then or min(losses[-3:]) <= last.loss:
        return None
    return (
        f"over-fitting: val loss rose from {losses[at]:.3g} (epoch {epochs[at].epoch}) to "
        f"{losses[-1]:.3g} (epoch {last.epoch}) while train loss fell from {then:.3g} to "
        f"{last.loss:.3g}. The best epoch is kept. {_against_over_fitting(history, wait)}"
    )


def gap(history: History) -> str | None:
    """At the end: train is known by heart, val is not."""
    started = history.started
    if started is None or started.task != "classification" or not _can_judge_val(history):
        return None
    last = history.epochs[-1]
    train, val, samples = last.accuracy, last.val.get("accuracy", math.nan), started.samples["val"]
    if train is None:
        return None
    noise = 3 * math.sqrt(max(val * (1 - val), 0) / samples)
    if not (train - val >= max(0.1, noise) and 1 - val >= 5 * (1 - train)):  # NaN is no gap
        return None
    return (
        f"over-fitting: accuracy is {train:.3g} on train and {val:.3g} on val after epoch {last.epoch}. "
        f"{_against_over_fitting(history, None)}"
    )


def _can_judge_val(history: History) -> bool:
    """Whether val tells anything: not of batches that are to be learned by heart, nor from a handful."""
    if not history.epochs or history.setting("fit.overfit_batches") is not None:
        return False
    return history.started is not None and history.started.samples.get("val", 0) >= FEWEST_VAL


def _against_over_fitting(history: History, wait: int | None) -> str:
    ways = ["more data", "a higher --weight-decay", "a smaller model"]
    level = history.setting("augment.level")
    if history.started is not None and history.started.kind == "image" and level != "strong":
        ways.insert(1, f"--augment {'strong' if level == 'standard' else 'standard'}")
    stop = wait is not None and history.setting("fit.patience") is None
    return f"What helps: {_listed(ways)}" + (f". --patience {wait} stops in time" if stop else "")


def rate_never_fell(history: History) -> str | None:
    """At the end: a run that was still getting better, or stood still at a high rate."""
    epochs, finished = history.epochs, history.finished
    if finished is None or len(epochs) < 6 or not _can_judge_val(history):
        return None
    losses, last = history.val("loss"), epochs[-1]
    if last.lr < 0.9 * max(epoch.lr for epoch in epochs) or not all(map(math.isfinite, losses)):
        return None
    ended = finished.stopped_early or finished.reason  # by a limit, which more epochs do not lift
    if not ended and last.improved and losses[-1] <= 0.98 * losses[-4]:
        return (
            f"the last epoch was the best, and val loss still fell: from {losses[-4]:.3g} to "
            f"{losses[-1]:.3g} in 3 epochs. dlcli train --resume {finished.run} --epochs "
            f"{2 * last.epochs} trains on"
        )
    at = losses.index(min(losses))
    if "generalisation" in history.topics or len(epochs) - 1 - at < max(3, len(epochs) / 3):
        return None
    return (
        f"val loss has not fallen since epoch {epochs[at].epoch} of {last.epoch}, and the learning "
        f"rate was still {last.lr:.3g} at the end. One that falls (--scheduler onecycle or cosine) "
        "mostly ends with a better model"
    )


def _listed(ways: list[str]) -> str:
    return ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"
