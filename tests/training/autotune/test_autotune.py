"""What "auto" finds for the learning rate and the batch size, and that finding it leaves no trace."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError
from dlcli.events import Event, Noted, ignore
from dlcli.settings import flat, merge, validate
from dlcli.training import run as training
from dlcli.training.autotune import batch_size
from dlcli.training.autotune.batch_size import MeasuredSize, find_batch_size
from dlcli.training.autotune.dry_run import dry_run
from dlcli.training.autotune.lr_finder import find_lr
from dlcli.training.autotune.lr_sweep import HIGHEST, LOWEST, suggest
from dlcli.training.autotune.memory import activation_bytes, estimate_memory
from dlcli.training.autotune.resolve import raise_epochs, resolve_auto
from dlcli.training.autotune.trial import training_batches, trial_job, with_settings
from dlcli.training.loop.state import load_newest
from dlcli.training.loop.step import optimizer_step
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan
from dlcli.training.prepare import prepare_run
from dlcli.ui.plots.lr_sweep import save_sweep

BASE = {
    "data": {"data": "digits"},
    "model": {"name": "mlp", "args": {"widths": [32]}},
    "fit": {"epochs": 2, "batch_size": 100, "device": "cpu"},
}
AUTO = {"optim": {"lr": "auto"}}


def plan(**changes: Any) -> Plan:
    return make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))


def curve(seed: int, *, scatter: float, best: float = -2.0) -> tuple[list[float], list[float]]:
    """Flat, falling by half around 1 decade before 10^best, rising behind it, with noise."""
    rates = np.geomspace(LOWEST, HIGHEST, 100)
    where = np.log10(rates)
    fall = 1 / (1 + np.exp(-5 * (where - best + 1)))
    losses = 2.3 - 1.2 * fall + np.maximum(where - best, 0) ** 2
    losses += np.random.default_rng(seed).normal(0, scatter, len(losses))
    return rates.tolist(), losses.tolist()


# --- the rule


@pytest.mark.parametrize("scatter", [0.0, 0.05, 0.15])
@pytest.mark.parametrize("best", [-4.0, -2.0, -0.5])
def test_the_suggestion_lies_where_the_loss_falls(scatter: float, best: float) -> None:
    for seed in range(5):
        sweep = suggest(*curve(seed, scatter=scatter, best=best))
        assert 10 ** (best - 1.7) < sweep.suggestion < 10 ** (best - 0.3)


def test_the_suggestion_stays_at_a_third_of_the_lowest_loss() -> None:
    rates = np.geomspace(LOWEST, HIGHEST, 100)
    # It falls faster and faster up to a wall.
    losses = np.where(rates < 1e-2, 2.3 - 150 * rates, 9.0)
    sweep = suggest(rates.tolist(), losses.tolist())
    lowest = rates[int(np.argmin(sweep.smoothed))]
    assert sweep.suggestion == pytest.approx(lowest / 3, rel=0.05)


@pytest.mark.parametrize("rise", [0.0, 1.0])
def test_losses_that_only_scatter_or_rise_are_an_error(rise: float) -> None:
    rates = np.geomspace(LOWEST, HIGHEST, 100)
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(0, 0.2, 100)
        losses = 1.5 + noise + rise * np.maximum(np.log10(rates) + 3, 0)
        with pytest.raises(DlcliError, match="no learning rate between 1e-07 and 10") as found:
            suggest(rates.tolist(), losses.tolist())
        assert "--lr 1e-3" in (found.value.hint or "")


def test_a_sweep_that_ends_at_once_is_an_error() -> None:
    with pytest.raises(DlcliError, match="not finite after 3 steps"):
        suggest([1e-7, 2e-7, 4e-7], [2.3, 2.3, 2.3])


# --- real problems


@pytest.mark.parametrize(
    ("data", "model", "args", "optimizer"),
    [
        pytest.param("digits", "mlp", {"widths": [32]}, "adamw", marks=pytest.mark.slow),
        pytest.param("digits", "mlp", {"widths": [32]}, "sgd", marks=pytest.mark.slow),
        pytest.param(
            "digits", "cnn", {"widths": [8, 16], "hidden": 16}, "adamw", marks=pytest.mark.slow
        ),
        ("diabetes", "mlp", {}, "adamw"),
    ],
)
def test_the_rate_learns_about_as_well_as_any(
    data: str, model: str, args: dict[str, Any], optimizer: str
) -> None:
    made = plan(
        data={"data": data},
        model={"name": model, "args": args},
        optim={"lr": "auto", "optimizer": optimizer},
        fit={"epochs": 3, "batch_size": 50},
    )
    sweep = find_lr(made, ignore)
    rate, first = sweep.suggestion, sweep.smoothed[0]
    assert 1e-5 < rate < 2.0

    def loss(lr: float) -> float:
        typed = with_settings(made, optim={"lr": lr})
        with trial_job(typed) as trial:
            job = trial.job
            batches = training_batches(job)
            for batch, step in zip(batches, range(job.total_steps), strict=False):
                for group in job.optimizer.param_groups:
                    group["lr"] = lr * (1 - step / job.total_steps)
                optimizer_step(job, batch, batch.count)
            job.model.module.eval()
            return job.validate(lambda: None).metrics["loss"]

    found, low, high = (loss(rate * factor) for factor in (1.0, 1 / 30, 5.0))
    assert found < low
    assert first - found > 0.8 * (first - min(low, high))


def test_a_run_with_auto_is_the_run_with_the_number_typed(tmp_path: Path) -> None:
    made = resolve_auto(plan(**AUTO), ignore)
    rate = made.config.optim.peak_lr
    runs = [made, plan(optim={"lr": rate})]
    tensors = []
    for number, each in enumerate(runs):
        run = training.new_run(prepare_run(each), tmp_path, str(number))
        training.train(prepare_run(each), run, ignore, state=None)
        state, _ = load_newest(run.state)
        assert state is not None
        tensors.append(state.tensors)
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][k], tensors[1][k]) for k in tensors[0])


def test_data_that_teach_nothing_are_an_error(tmp_path: Path) -> None:
    # Noise: nothing can be learnt but the mean, where a linear model begins.
    rng = np.random.default_rng(0)
    rows = "\n".join(f"{a:.4f},{b:.4f}" for a, b in rng.normal(size=(400, 2)))
    path = tmp_path / "noise.csv"
    path.write_text(f"x,y\n{rows}\n")
    said = {"data": {"data": str(path)}, "model": {"name": "linear"}, "fit": {"device": "cpu"}}
    made = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, said, AUTO)))
    with pytest.raises(DlcliError, match="no learning rate"):
        find_lr(made, ignore)


# --- traces


@pytest.mark.slow
def test_finding_leaves_generators_and_settings_alone(tmp_path: Path) -> None:
    dry_run(plan(), ignore)  # what is imported on the way may draw, once in a process
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    asked = plan(optim={"lr": "auto"}, fit={"batch_size": "auto"})
    said: list[Event] = []
    made = resolve_auto(asked, said.append)
    dry_run(made, ignore)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    old, new = flat(asked.config), flat(made.config)
    assert {key for key in old if old[key] != new[key]} == {
        *("optim.lr", "fit.batch_size"),
        *("fit.amp", "fit.channels_last", "fit.cache_features"),
    }
    assert made.lr_sweep is not None
    assert made.lr_sweep.suggestion == new["optim.lr"]
    # The batch size first: the rate is one for it.
    found = made.notes[len(asked.notes) :]
    assert [note.partition(":")[0] for note in found] == ["batch size auto", "lr auto"]
    # Not twice on one screen: the plan shows its notes.
    assert not [event for event in said if isinstance(event, Noted) and event.message in found]


def small(fit: dict[str, Any], *given: str) -> Plan:
    """A plan of 1,439 digits, 15 steps an epoch, with 2 epochs of a recipe unless ``given``."""
    typed = {"device": "cpu"} | {key: value for key, value in fit.items() if key in given}
    made = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, {**BASE, "fit": typed})))
    return with_settings(made, fit={"epochs": 2, "batch_size": 100} | fit)


@pytest.mark.parametrize(
    ("fit", "given", "epochs"),
    [
        ({"min_steps": 30}, (), 2),  # there are enough
        ({"min_steps": 31}, (), 3),
        ({"min_steps": 200}, (), 14),
        ({"min_steps": 200, "max_steps": 40}, ("max_steps",), 3),
        ({"min_steps": 200, "batch_size": 1000}, ("batch_size",), 100),
        ({"min_steps": 200, "epochs": 1}, ("epochs",), 1),  # the user's
        ({"min_steps": 200, "overfit_batches": 1}, ("overfit_batches",), 2),
    ],
)
def test_epochs_are_raised_to_the_least_number_of_steps_unless_they_are_given(
    fit: dict[str, Any], given: tuple[str, ...], epochs: int
) -> None:
    asked = small(fit, *given)
    made = raise_epochs(asked)
    assert made.config.fit.epochs == epochs
    raised = epochs > asked.config.fit.epochs
    notes = made.notes[len(asked.notes) :]
    assert len(notes) == raised
    if raised:
        assert notes[0].startswith(f"{epochs} epochs instead of 2: an epoch has ")
    else:
        assert made is asked


def test_a_plan_without_auto_comes_back_as_it_is() -> None:
    made = plan(fit={"amp": "none", "channels_last": "on", "cache_features": "off"})
    assert resolve_auto(made, ignore) is made


@pytest.mark.slow
def test_the_sweep_does_not_depend_on_what_was_drawn_before() -> None:
    made = plan(model={"name": "mlp", "args": {"widths": [8], "dropout": 0.5}}, **AUTO)
    sweeps = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        sweeps.append(find_lr(made, ignore))
    assert sweeps[0] == sweeps[1]


def test_the_sweep_is_drawn(tmp_path: Path) -> None:
    path = save_sweep(tmp_path / "lr.png", suggest(*curve(0, scatter=0.05)))
    assert path.read_bytes().startswith(b"\x89PNG")


# --- the batch size


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    *,
    fits: int,
    best: int = 10**9,
    device: str = "cpu",
    devices: int = 1,
) -> list[int]:
    """Sizes above ``fits`` have no room, those above ``best`` are no faster; the sizes tried."""
    tried: list[int] = []

    def attempt(plan: Plan, samples: Any, size: int, budget: int) -> MeasuredSize:
        assert len(samples) == size * devices
        tried.append(size)
        return MeasuredSize(size, size <= fits, size * 2**20, 100.0 * min(size, best))

    monkeypatch.setattr(batch_size, "_try_size", attempt)
    monkeypatch.setattr(batch_size, "_budget", lambda *args: 2**30)
    monkeypatch.setattr(batch_size, "first_device", lambda config: torch.device(device))
    monkeypatch.setattr(batch_size, "process_count", lambda config: devices)
    return tried


@pytest.mark.parametrize(
    ("fits", "best", "device", "devices", "size"),
    [
        (10**9, 10**9, "cpu", 1, 128),  # a tenth of 1,439
        (10**9, 10**9, "cuda", 1, 128),
        (50, 10**9, "cuda", 1, 32),
        (50, 10**9, "cpu", 1, 32),
        (10**9, 16, "cpu", 1, 16),
        (10**9, 16, "cuda", 1, 128),  # on CUDA memory decides
        (3, 10**9, "cuda", 1, 2),
        (1, 10**9, "cpu", 1, 1),
        (10**9, 10**9, "cpu", 2, 128),  # 64 on each
        (32, 10**9, "cuda", 3, 96),
    ],
)
def test_the_batch_size_is_what_memory_and_speed_allow(
    monkeypatch: pytest.MonkeyPatch, fits: int, best: int, device: str, devices: int, size: int
) -> None:
    tried = pretend(monkeypatch, fits=fits, best=best, device=device, devices=devices)
    found, said = find_batch_size(plan(fit={"batch_size": "auto"}))
    assert found == size
    assert len(tried) == len(set(tried))
    assert said.startswith(f"batch size auto: {size}")


def test_no_room_for_a_single_sample_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, fits=0)
    with pytest.raises(DlcliError, match="no memory for a step of a single sample"):
        find_batch_size(plan(fit={"batch_size": "auto"}))


def test_at_most_1024_samples_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, fits=10**9)
    made = plan(fit={"batch_size": "auto"})
    monkeypatch.setattr(batch_size, "MIN_STEPS", 1)
    assert find_batch_size(made)[0] == 1024
    assert max(tried) == 1024


def test_a_real_search_ends_with_a_power_of_two() -> None:
    found, _ = find_batch_size(plan(fit={"batch_size": "auto"}))
    assert found in (8, 16, 32, 64, 128)


def test_memory_that_is_not_there_is_not_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(fit={"batch_size": "auto"})
    sizes = {
        size: batch_size._try_size(made, made.source.splits["train"], size, 2**40) for size in (8, 16)
    }
    assert sizes[8].peak < sizes[16].peak
    monkeypatch.setattr(batch_size, "_budget", lambda *args: sizes[8].peak)
    assert find_batch_size(made)[0] == 8


def test_steps_are_tried_on_the_longest_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = SimpleNamespace(lengths=np.array([3, 9, 1, 7]), close=lambda: None)
    monkeypatch.setattr(batch_size, "make_reader", lambda *args: reader)
    assert batch_size._choose_samples(plan(), 2)[0].tolist() == [1, 3]


def test_a_split_that_stays_on_the_gpu_leaves_less_room(monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan()
    _, resident = batch_size._choose_samples(made, 2)
    assert resident == 1439 * 8 * 8
    monkeypatch.setattr(batch_size, "free_memory", lambda device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    cuda = torch.device("cuda")
    assert batch_size._budget(cuda, 1, 0) == 850
    assert batch_size._budget(cuda, 1, 400) == 510
    assert batch_size._budget(cuda, 1, 401) == 850  # too large to stay


# --- memory


def test_memory_is_counted_tensor_by_tensor() -> None:
    made = plan(fit={"ema": 0.9, "batch_size": 64})
    with trial_job(made) as trial:
        job = trial.job
        batch = next(training_batches(job))
        optimizer_step(job, batch, batch.count)
        found = estimate_memory(job, batch, batch)
        small = estimate_memory(job, batch, batch.take(np.arange(32)))
        weights = 4 * sum(p.numel() for p in job.model.module.parameters())
        floats = 4 * sum(b.numel() for b in job.model.module.buffers() if b.is_floating_point())
        counters = sum(8 for b in job.model.module.buffers() if not b.is_floating_point())
        steps = 4 * len(list(job.model.module.parameters()))  # AdamW counts them in a tensor each
        assert found.weights == weights + floats + counters
        assert found.gradients == weights
        assert found.optimizer == 2 * weights + steps
        assert found.averages == found.weights
        assert found.batch == 64 * 8 * 8 + 64 * 8  # uint8 pixels, int64 classes
        assert small.activations == pytest.approx(found.activations / 2, rel=0.1)
        assert activation_bytes(job, batch) == found.activations
