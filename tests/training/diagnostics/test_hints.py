from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from dlcli.events import EpochDone, Event, RunFinished, RunStarted, StepDone
from dlcli.training.diagnostics.hints import Hints

STARTED = RunStarted(
    run="runs/cnn-shirts", model="cnn", params=1000, trainable_params=1000, data="shirts", kind="image",
    task="classification", samples={"train": 3200, "val": 320}, num_classes=10,
    input_shape=(3, 32, 32), epochs=10, steps_per_epoch=50, total_steps=500, batch_size=64,
    optimizer="adamw", scheduler="onecycle", lr=1e-3, device="cpu", amp="none", monitor="accuracy",
)  # fmt: skip


def started(**changes: Any) -> RunStarted:
    settings = changes.pop("settings", {})
    return replace(STARTED, settings=settings, **changes)


def epochs(
    train: Sequence[float], val: Sequence[float], *,
    score: Sequence[float] | None = None, train_score: Sequence[float | None] | None = None,
    lr: Sequence[float] | None = None, of: int = 10, name: str = "accuracy", steps: int = 50,
    balanced: Sequence[float] | None = None,
) -> list[EpochDone]:  # fmt: skip
    """A run's epochs; without ``score`` the accuracy follows the loss."""
    done, best = [], -math.inf
    for i, (loss, val_loss) in enumerate(zip(train, val, strict=True)):
        value = score[i] if score else math.exp(-val_loss)
        done.append(
            EpochDone(
                epoch=i + 1,
                epochs=of,
                step=(i + 1) * steps,
                loss=loss,
                accuracy=train_score[i] if train_score else None,
                lr=lr[i] if lr else 1e-3 * (1 - i / of),
                val={
                    "loss": val_loss,
                    name: value,
                    "balanced_accuracy": balanced[i] if balanced else 0.6,
                },
                monitor=name,
                improved=value > best,
                samples_per_s=100.0,
                epoch_s=1.0,
                elapsed_s=i + 1.0,
            )
        )
        best = max(best, value)
    return done


def step(number: int, *, norm: float | None = None, loss: float = 1.0, skipped: int = 0) -> StepDone:
    return StepDone(
        step=number, total_steps=10_000, epoch=1, epochs=1, step_in_epoch=number, steps_per_epoch=10_000,
        loss=loss, accuracy=None, lr=1e-3, samples_per_s=100.0, elapsed_s=1.0, eta_s=1.0,
        grad_norm=norm, skipped=skipped,
    )  # fmt: skip


def finished(last: EpochDone, best_epoch: int, **changes: Any) -> RunFinished:
    event = RunFinished("runs/cnn-shirts", last.step, last.epoch, "accuracy", 0.5, best_epoch, 10.0)
    return replace(event, **changes)


def hints_of(events: Sequence[Event], hints: Hints | None = None) -> list[str]:
    hints = hints or Hints()
    return [sentence for event in events for sentence in hints(event)]


TRAIN = [2.1, 1.5, 1.1, 0.8, 0.55, 0.36, 0.22, 0.13, 0.08, 0.05]
RISING = [1.9, 1.4, 1.1, 0.98, 0.95, 1.05, 1.2, 1.35, 1.5, 1.62]


def test_over_fitting_is_reported_once_with_numbers_and_remedies() -> None:
    settings = {"augment.level": None, "fit.patience": None}
    (sentence,) = hints_of([started(settings=settings), *epochs(TRAIN, RISING)])
    assert sentence == (
        "over-fitting: val loss rose from 0.95 (epoch 5) to 1.5 (epoch 9) while train loss fell from "
        "0.55 to 0.08. The best epoch is kept. Try more data, --augment standard, a higher "
        "--weight-decay or a smaller model. --patience 3 would stop the run early"
    )


@pytest.mark.parametrize(
    ("kind", "settings", "present", "absent"),
    [
        ("image", {"augment.level": "standard"}, "--augment strong", "--augment standard"),
        ("image", {"augment.level": "strong"}, "more data", "--augment"),
        ("text", {}, "--weight-decay", "--augment"),
        ("image", {"fit.patience": 5}, "--weight-decay", "--patience"),
    ],
)
def test_remedies_for_over_fitting_fit_the_run(
    kind: str, settings: dict[str, Any], present: str, absent: str
) -> None:
    (sentence,) = hints_of([started(kind=kind, settings=settings), *epochs(TRAIN, RISING)])
    assert present in sentence
    assert absent not in sentence


@pytest.mark.parametrize(
    "val",
    [
        [1.9, 1.4, 1.1, 0.98, 0.95, 0.97, 0.96, 0.99, 0.98, 0.99],  # a floor with noise
        [1.9, 1.4, 1.1, 0.98, 0.95, 1.4, 1.5, 0.94, 0.93, 0.93],  # a bump, as under a high rate
        [1.9, 1.4, 1.1, 0.9, 0.7, 0.6, 0.5, 0.45, 0.42, 0.41],  # all is well
    ],
)
def test_noise_a_bump_and_a_good_run_are_no_over_fitting(val: list[float]) -> None:
    assert hints_of([started(), *epochs(TRAIN, val)]) == []


def test_a_loss_that_rises_while_the_metric_gets_better_is_no_over_fitting() -> None:
    better = [0.3 + i / 50 for i in range(10)]
    assert hints_of([started(), *epochs(TRAIN, RISING, score=better)]) == []


def test_a_loss_that_doubles_close_to_zero_is_no_over_fitting() -> None:
    train = [2.0 * 0.3**i for i in range(10)]
    val = [1.9, 0.5, 0.1, 0.02, 0.012, 0.02, 0.024, 0.025, 0.026, 0.027]
    assert hints_of([started(), *epochs(train, val)]) == []


def test_a_rise_of_both_losses_is_no_over_fitting() -> None:
    train = [2.1, 1.5, 1.1, 0.8, 0.7, 0.75, 0.8, 0.9, 1.0, 1.0]
    assert hints_of([started(), *epochs(train, RISING)]) == []


def test_five_validation_samples_give_no_hint() -> None:
    few = started(samples={"train": 45, "val": 5})
    assert hints_of([few, *epochs(TRAIN, RISING)]) == []
    assert hints_of([started(settings={"fit.overfit_batches": 1}), *epochs(TRAIN, RISING)]) == []
    assert hints_of(epochs(TRAIN, RISING)) == []  # the number of samples is unknown


@pytest.mark.parametrize("seed", range(20))
def test_converged_runs_with_noise_give_no_hint(seed: int) -> None:
    """60 epochs that end at a floor, with 8 % noise on val: a false alarm would be a defect."""
    noise = random.Random(seed)
    curve = [0.4 + 1.9 * math.exp(-i / 6) for i in range(60)]
    train = [0.9 * v * (1 + noise.gauss(0, 0.01)) for v in curve]
    val = [v * (1 + noise.gauss(0, 0.08)) for v in curve]
    lr = [1e-3] * 60
    run = [started(scheduler="cosine"), *epochs(train, val, of=60, lr=[*lr[:50], *([1e-5] * 10)])]
    last = run[-1]
    assert isinstance(last, EpochDone)
    assert hints_of([*run, finished(last, 55)]) == []


def test_over_fitting_of_a_forecast_is_detected_by_its_loss() -> None:
    forecast = started(task="forecast", kind="series", num_classes=0, monitor="mse")
    train = [0.7, 0.4, 0.33, 0.28, 0.24, 0.2, 0.17, 0.15]
    val = [0.9, 0.75, 0.7, 0.72, 0.8, 0.88, 0.95, 1.0]
    score = [-v for v in val]
    (sentence,) = hints_of([forecast, *epochs(train, val, name="mse", score=score)])
    assert "val loss rose from 0.7 (epoch 3)" in sentence


@pytest.mark.parametrize(
    ("changes", "level", "what"),
    [
        ({}, math.log(10), "guessing among 10 classes gives 2.3"),
        ({"task": "multilabel", "num_classes": 4}, math.log(2), "guessing gives 0.693 per label"),
        ({"task": "regression", "num_classes": 0}, 1.0, "always predicting the mean gives 1"),
    ],
)
def test_a_model_that_does_not_learn_is_reported_after_a_third(
    changes: dict[str, Any], level: float, what: str
) -> None:
    stuck = [level * (1.01 - i / 1000) for i in range(10)]
    events = epochs(stuck, stuck)
    assert hints_of([started(**changes), *events[:3]]) == []
    (sentence,) = hints_of([started(**changes), *events])
    assert sentence.startswith("the model does not learn: train loss is ")
    assert what in sentence
    assert "after epoch 4," in sentence


@pytest.mark.parametrize(
    "settings",
    [{"loss.teacher": "a.safetensors"}, {"loss.name": "focal"}, {"data.balance": "focal"}],
)
def test_other_losses_are_not_compared_with_guessing(settings: dict[str, Any]) -> None:
    assert hints_of([started(settings=settings), *epochs([2.3] * 10, [2.3] * 10)]) == []


def test_a_slow_start_gives_no_hint() -> None:
    """One step an epoch and a warm-up: the loss stands at ln(2) for a while, and then it falls."""
    train = [0.693] * 30 + [0.693 - i / 200 for i in range(70)]
    two = started(num_classes=2, samples={"train": 45, "val": 45})
    assert hints_of([two, *epochs(train, train, of=100, steps=1)]) == []
    long = started(settings={"optim.warmup": 0.8})
    assert hints_of([long, *epochs([2.3] * 8, [2.3] * 8)]) == []


def test_a_single_predicted_class_is_reported_even_at_a_high_accuracy() -> None:
    rare = started(num_classes=2)
    run = epochs([0.06] * 10, [0.06] * 10, score=[0.99] * 10, balanced=[0.5] * 10)
    (sentence,) = hints_of([rare, *run])
    assert "balanced_accuracy is 0.5, that of 1 of 2 classes" in sentence
    assert "--balance weights" in sentence
    learned = epochs([0.06] * 10, [0.06] * 10, score=[0.99] * 10, balanced=[*[0.5] * 3, *[0.8] * 7])
    assert hints_of([rare, *learned]) == []


def test_other_labels_in_val_are_reported() -> None:
    run = epochs(
        TRAIN, [2.5 + i / 2 for i in range(10)], score=[0.1] * 10,
        train_score=[min(0.3 + i / 8, 0.99) for i in range(10)], balanced=[0.11] * 10,
    )  # fmt: skip
    (sentence,) = hints_of([started(), *run])
    assert "val balanced_accuracy never above 0.11 in 5 epochs, and guessing gives 0.1" in sentence
    assert "dlcli data shirts" in sentence


def test_batch_norms_may_need_some_steps() -> None:
    run = epochs(
        TRAIN, [2.4] * 10, score=[0.1] * 10, train_score=[0.99] * 10, balanced=[0.11] * 10,
        steps=4,
    )  # fmt: skip
    assert hints_of([started(), *run]) == []


def test_a_gap_after_the_run_is_reported_once() -> None:
    run = epochs(
        TRAIN, [1.9, 1.4, 1.1, *[1.0] * 7], score=[0.3, 0.5, *[0.7] * 8],
        train_score=[min(0.3 + i / 8, 0.99) for i in range(10)],
    )  # fmt: skip
    (sentence,) = hints_of([started(), *run, finished(run[-1], 3)])
    assert sentence.startswith("over-fitting: accuracy is 0.99 on train and 0.7 on val after epoch 10.")
    few = started(samples={"train": 100, "val": 20})
    close = epochs(TRAIN, [1.0] * 10, score=[0.85] * 10, train_score=[0.98] * 10)
    assert hints_of([few, *close, finished(close[-1], 1)]) == []  # 3 of 20 samples
    both = epochs(TRAIN, RISING, train_score=[min(0.3 + i / 8, 0.99) for i in range(10)])
    assert len(hints_of([started(), *both, finished(both[-1], 5)])) == 1


def test_divergence_is_reported_and_one_bad_epoch_is_not() -> None:
    broken = [2.1, 1.0, 0.5, 0.4, 2.3, 2.2, 2.3, 2.3]
    (sentence,) = hints_of([started(), *epochs(broken, broken)])
    assert "train loss rose from 0.4 (epoch 4) to 2.2 (epoch 6)" in sentence
    assert "a lower --lr or --clip-grad-norm 1.0" in sentence
    once = [2.1, 1.0, 0.5, 0.4, 2.3, 0.5, 0.4, 0.3]
    assert hints_of([started(), *epochs(once, once)]) == []
    restarts = [2.1, 1.0, 0.5, 0.2, 0.1, 0.4, 0.5, 0.3, 0.2, 0.05]  # a cosine with warm restarts
    assert hints_of([started(), *epochs(restarts, restarts)]) == []


def test_spikes_of_the_gradient_norm_are_reported() -> None:
    noise = random.Random(0)
    norms = [abs(noise.gauss(1.0, 0.3)) for _ in range(200)]
    for at in (80, 120, 160):
        norms[at] = 150.0 + at
    run: list[Event] = [started(), *(step(i, norm=n) for i, n in enumerate(norms, 1))]
    (sentence,) = hints_of(run)
    assert "at 3 of 161 logged steps, up to 310 at step 161" in sentence
    assert "--clip-grad-norm 1.0" in sentence
    clipped = started(settings={"optim.clip_grad_norm": 1.0})
    assert hints_of([clipped, *run[1:]]) == []


def test_spikes_above_a_norm_that_has_gone_to_zero_are_normal() -> None:
    noise = random.Random(1)
    norms = [3.0 * math.exp(-i / 20) * math.exp(noise.gauss(0, 1)) for i in range(400)]
    for at in range(300, 400, 20):
        norms[at] = 1.0
    assert hints_of([started(), *(step(i, norm=n, loss=1 / i) for i, n in enumerate(norms, 1))]) == []


def test_vanishing_gradients_are_reported_unless_the_loss_is_small() -> None:
    stuck = [step(i, norm=1e-9, loss=2.3) for i in range(1, 9)]
    (sentence,) = hints_of([started(), *stuck])
    assert "norm is 1e-09 at step 5 while the loss is still 2.3" in sentence
    learned = [step(1, norm=1.0, loss=2.3), *(step(i, norm=1e-9, loss=1e-6) for i in range(2, 20))]
    assert hints_of([started(), *learned]) == []
    assert hints_of([started(), *(step(i, norm=None, loss=2.3) for i in range(1, 9))]) == []


def test_skipped_steps_are_reported_once_and_a_gradient_scaler_may_skip() -> None:
    steps = [step(i, skipped=min(i, 8)) for i in range(1, 30)]
    (sentence,) = hints_of([started(), *steps])
    assert sentence.startswith("1 of 1 step was skipped: the gradient was NaN or infinite.")
    assert "--amp none" not in sentence
    assert hints_of([started(amp="fp16"), *steps]) == []
    many = [step(i, skipped=i) for i in range(1, 30)]
    (sentence,) = hints_of([started(amp="fp16"), *many])
    assert sentence.startswith("11 of 11 steps were skipped")
    assert "--amp none" in sentence


def test_a_constant_rate_is_reported_after_the_run() -> None:
    flat = [2.0, 1.4, 1.0, 0.8, *[0.81] * 8]
    constant = started(scheduler="constant")
    run = epochs(flat, flat, of=12, lr=[1e-3] * 12)
    (sentence,) = hints_of([constant, *run, finished(run[-1], 4)])
    assert "has not fallen since epoch 4 of 12, and the learning rate was still 0.001" in sentence
    fell = epochs(flat, flat, of=12, lr=[1e-3] * 8 + [1e-4] * 4)
    assert hints_of([constant, *fell, finished(fell[-1], 4)]) == []


def test_a_run_that_was_still_improving_gets_the_command_to_continue() -> None:
    falling = [2.0 * 0.8**i for i in range(10)]
    run = epochs(falling, falling, lr=[1e-3] * 10)
    (sentence,) = hints_of([started(scheduler="constant"), *run, finished(run[-1], 10)])
    assert "dlcli train --resume runs/cnn-shirts --epochs 20" in sentence


def test_a_resumed_run_repeats_no_hint() -> None:
    bad = [step(i, skipped=1, norm=1e-9, loss=2.3) for i in range(1, 9)]
    first: list[Event] = [started(), *bad, *epochs(TRAIN, RISING)[:9]]
    assert len(hints_of(first)) == 3
    lines = [json.loads(json.dumps(event.to_dict())) for event in first]
    hints = Hints()
    hints.recall(lines)
    later = [replace(STARTED, resumed_step=400), *bad, *epochs(TRAIN, RISING)[9:]]
    assert hints_of(later, hints) == []


def test_events_before_a_resume_count_after_it() -> None:
    run = epochs(TRAIN, RISING)
    whole = hints_of([started(), *run])
    hints = Hints()
    hints.recall([event.to_dict() for event in [started(), *run[:6]]])
    assert hints_of([replace(started(), resumed_step=300), *run[6:]], hints) == whole


def test_recall_reads_null_as_nan_and_ignores_other_entries() -> None:
    lines: list[dict[str, Any]] = [e.to_dict() for e in [started(), *epochs(TRAIN, RISING)]]
    lines[3]["loss"] = None  # it was NaN
    lines[4]["val"]["loss"] = None
    lines += [{"event": "EpochDone"}, {"event": "Warned", "message": "x"}, {"no": "event"}]
    hints = Hints()
    hints.recall(lines)
    assert hints_of(epochs(TRAIN, RISING)[-1:], hints) == []


def test_nan_metrics_give_no_hint() -> None:
    nan = [math.nan] * 10
    run = [started(), *(step(i, norm=math.nan, loss=math.nan) for i in range(40)), *epochs(nan, nan)]
    last = run[-1]
    assert isinstance(last, EpochDone)
    assert hints_of([*run, finished(last, 0)]) == []
    text = started(task="seq2seq", kind="pairs", num_classes=0)
    assert hints_of([text, *epochs(TRAIN, [*RISING[:-1], math.inf])[-1:]]) == []


def one_cycle(count: int, warmup: float = 0.3) -> list[float]:
    """The rate at the end of each epoch."""
    top = warmup * count
    return [
        1e-3 * (0.5 - 0.5 * math.cos(math.pi * min(i / top, 1)) if i <= top
                else 0.5 + 0.5 * math.cos(math.pi * (i - top) / (count - top)))
        for i in range(1, count + 1)
    ]  # fmt: skip


def test_a_rise_at_the_peak_of_the_rate_is_no_over_fitting() -> None:
    # As a residual network from scratch on 245 photos: accuracy 0.66 before the peak, 0.77 at the end.
    train = [1.6 - 0.05 * i for i in range(20)]
    val = [1.5, 1.1, 0.9, 1.3, 1.5, 1.6, 1.7, 1.6, 1.5, 1.3, 1.2, 1.1, 1.0, 0.95, 0.92, 0.9, 0.88, 0.87,
           0.86, 0.86]  # fmt: skip
    score = [0.4, 0.6, 0.66, 0.5, 0.5, 0.45, 0.4, 0.5, 0.5, 0.6, 0.62, 0.65, 0.66, 0.7, 0.72, 0.74, 0.75,
             0.76, 0.77, 0.771]  # fmt: skip
    events = epochs(train, val, score=score, lr=one_cycle(20), of=20)
    assert hints_of([started(epochs=20), *events]) == []


def test_over_fitting_that_began_before_the_peak_advises_no_patience() -> None:
    train = [2.0 * 0.75**i for i in range(20)]
    val = [1.5, 1.1, 0.9, *(1.3 + 0.05 * i for i in range(17))]
    events = epochs(train, val, lr=one_cycle(20), of=20)
    at = next(i for i in range(20) if hints_of([started(), *events[: i + 1]]))
    assert events[at].lr <= 0.5e-3
    (sentence,) = hints_of([started(), *events])
    assert "over-fitting" in sentence
    assert "--patience" not in sentence


def test_a_run_that_ends_while_val_still_improves_says_how_to_go_on() -> None:
    falling = [
        3.0,
        2.7,
        2.4,
        2.1,
        1.9,
        1.7,
        1.55,
        1.42,
        1.35,
        1.307,
    ]  # train and val alike: 40 steps in all
    events = epochs(falling, falling, lr=one_cycle(10))
    (sentence,) = hints_of([started(), *events, finished(events[-1], 10)])
    assert "val loss was still falling: from 1.55 to 1.31 in 3 epochs" in sentence
    assert "--resume runs/cnn-shirts --epochs 20" in sentence
    learned = epochs([loss / 3 for loss in falling], falling, lr=one_cycle(10))
    assert hints_of([started(), *learned, finished(learned[-1], 10)]) == []


SECONDS = {"data": 40.0, "step": 40.0, "evaluation": 15.0, "saving": 4.0, "other": 1.0}


@pytest.mark.parametrize(
    ("settings", "seconds", "changes", "words"),
    [
        ({"data.cache": "auto"}, {}, {"streamed": True}, ("40% of the time", "--img-size")),
        ({"data.cache": "none"}, {}, {"streamed": True}, ("40% of the time", "--cache auto")),
        (
            {"data.workers": 2},
            {},
            {"streamed": True, "cores": 8},
            ("more decoding threads than --workers 2",),
        ),
        ({}, {"evaluation": 80.0, "data": 5.0}, {}, ("evaluation took", "3,000", "9,000")),
        (
            {"fit.checkpoint_every": "1ep,5min"},
            {"saving": 80.0, "data": 5.0},
            {},
            ("saving took", "with --checkpoint-every 1ep,5min", "--checkpoint-every 10min"),
        ),
        ({}, {}, {"streamed": False}, ()),  # decoded once: nothing to advise
        ({}, {"data": 20.0}, {"streamed": True}, ()),
        ({}, {"data": 20.0}, {"core_wait": 0.45}, ("45% of the time", "had no core")),
        ({}, {"data": 20.0}, {"core_wait": 0.1}, ()),
        (
            {},
            {"data": 4.0, "step": 1.0, "evaluation": 0.0, "saving": 0.0},
            {"streamed": True},
            (),
        ),  # too short
    ],
)
def test_the_advice_on_time_follows_from_its_shares(
    settings: dict[str, Any], seconds: dict[str, float], changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    plan = started(settings=settings, samples={"train": 9000, "val": 3000})
    end = finished(epochs([1.0], [1.0])[0], 1, phase_s=SECONDS | seconds, **changes)
    hints = hints_of([plan, end])
    assert len(hints) == (1 if words else 0)
    assert all(word in hint for hint in hints for word in words)


def test_evaluation_of_few_samples_is_no_matter_of_the_split() -> None:
    plan = started(settings={}, samples={"train": 9000, "val": 1000})
    slow = finished(epochs([1.0], [1.0])[0], 1, phase_s=SECONDS | {"evaluation": 90.0})
    assert hints_of([plan, slow]) == []
