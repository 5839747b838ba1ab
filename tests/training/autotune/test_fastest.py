"""Which precision, layout and threads a trial chooses, and that it leaves the job as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError
from dlcli.settings import merge, validate
from dlcli.training.autotune import fastest
from dlcli.training.autotune.fastest import Way, choose_fastest
from dlcli.training.autotune.trial import training_batches, trial_job
from dlcli.training.loop.step import optimizer_step
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan
from dlcli.zoo.precision import Precision, resolve_precision

BASE = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [8, 8]}},
    "fit": {"epochs": 2, "batch_size": 64, "device": "cpu"},
}
FLOAT32, BF16 = Way("none", True), Way("bf16", True)
CONTIGUOUS, BOTH = Way("none", False), Way("bf16", False)
ONE_THREAD = Way("none", True, 1)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of a machine that says nothing about threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(fastest, "usable_cores", lambda processes: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def plan(**changes: Any) -> Plan:
    return make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))


def settings(made: Plan) -> tuple[str, str]:
    return made.config.fit.amp, made.config.fit.channels_last


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[Way, Sequence[float]],
    *,
    dies: bool = False,
    kernels: bool = True,
) -> None:
    """Steps take these seconds, in turn; bf16 works, or kills the process that tries it."""
    times = {way: cycle(values) for way, values in seconds.items()}
    monkeypatch.setattr(fastest, "_seconds", lambda job, way, batches: next(times[way]))
    monkeypatch.setattr(fastest, "_undisturbed_s", lambda job, way, batches: 1.0)

    def resolve(requested: str, device: torch.device) -> Precision:
        if requested == "bf16" and dies:
            raise DlcliError("--amp bf16 fails on this CPU: a trial ended with signal 4 (SIGILL)")
        return Precision("none" if requested == "auto" else requested, device)

    monkeypatch.setattr(fastest, "resolve_precision", resolve)
    monkeypatch.setattr(fastest, "cpu_has_bf16_kernels", lambda: kernels)


@pytest.mark.parametrize(
    ("seconds", "chosen", "words"),
    [
        ({BF16: [0.5], CONTIGUOUS: [1.2], BOTH: [0.6]}, ("bf16", "on"), "bf16 + channels-last: 2.0x"),
        ({BF16: [0.5], CONTIGUOUS: [1.2], BOTH: [0.4]}, ("bf16", "off"), "bf16 + contiguous: 2.5x"),
        ({BF16: [1.5], CONTIGUOUS: [0.8], BOTH: [1.6]}, ("none", "off"), "float32 + contiguous: 1.2x"),
        ({BF16: [0.95], CONTIGUOUS: [1.0], BOTH: [1.6]}, ("none", "on"), "nothing else is 1.1x as fast"),
        # One lucky round is noise, and so are lucky rounds without a faster fastest one.
        ({BF16: [0.5, 1, 1, 1, 1], CONTIGUOUS: [1.0], BOTH: [1.0]}, ("none", "on"), "bf16 + channels-"),
    ],
)
def test_the_fastest_is_taken_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[Way, Sequence[float]],
    chosen: tuple[str, str],
    words: str,
) -> None:
    pretend(monkeypatch, {FLOAT32: [1.0], **seconds})
    made, sentence = choose_fastest(plan())
    assert settings(made) == chosen
    assert words in sentence


def test_what_was_asked_for_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {BF16: [1.0], BOTH: [0.5]})
    assert settings(choose_fastest(plan(fit={"amp": "bf16"}))[0]) == ("bf16", "off")
    pretend(monkeypatch, {FLOAT32: [1.0], BF16: [0.5]})
    assert settings(choose_fastest(plan(fit={"channels_last": "on"}))[0]) == ("bf16", "on")
    asked = plan(fit={"amp": "none", "channels_last": "off", "threads": 2})
    assert choose_fastest(asked) == (asked, "")


def test_bf16_that_kills_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {FLOAT32: [1.0], CONTIGUOUS: [1.0]}, dies=True)
    made, sentence = choose_fastest(plan())
    assert settings(made) == ("none", "on")
    assert "bf16 is left out: --amp bf16 fails on this CPU: a trial ended with signal 4" in sentence


def test_without_kernels_for_bf16_no_step_in_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One may take minutes."""
    pretend(monkeypatch, {FLOAT32: [1.0], CONTIGUOUS: [0.5]}, kernels=False)  # bf16 would be a KeyError
    one_step: list[str] = []
    monkeypatch.setattr(
        fastest, "_undisturbed_s", lambda job, way, batches: one_step.append(way.amp) or 1.0
    )
    made, sentence = choose_fastest(plan())
    assert settings(made) == ("none", "off")
    assert sentence.endswith("bf16 is left out: this CPU has no instructions for it")
    assert set(one_step) == {"none"}


def test_a_kernel_that_torch_lacks_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {FLOAT32: [1.0], CONTIGUOUS: [1.0]})
    known = fastest._seconds

    def seconds(job: Any, way: Way, batches: Any) -> float:
        if way.amp == "bf16":
            raise RuntimeError("\"some_cpu\" not implemented for 'BFloat16'")
        return known(job, way, batches)

    monkeypatch.setattr(fastest, "_seconds", seconds)
    monkeypatch.setattr(fastest, "_undisturbed_s", seconds)
    made, sentence = choose_fastest(plan())
    assert settings(made) == ("none", "on")
    assert "bf16 is left out" in sentence


@pytest.mark.parametrize(("first", "chosen"), [(4.0, "bf16"), (40.0, "none")])
def test_the_first_step_of_a_way_makes_its_kernels(
    monkeypatch: pytest.MonkeyPatch, first: float, chosen: str
) -> None:
    """It is judged by a later one, unless that may take minutes."""
    pretend(monkeypatch, {FLOAT32: [1.0], CONTIGUOUS: [1.0], BF16: [0.5], BOTH: [0.5]})
    cold = {BF16, BOTH}

    def seconds(job: Any, way: Way, batches: Any) -> float:
        slow = way in cold
        cold.discard(way)
        return first if slow else 1.0

    monkeypatch.setattr(fastest, "_undisturbed_s", seconds)
    assert settings(choose_fastest(plan())[0])[0] == chosen


def test_a_way_whose_steps_are_slow_is_timed_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step in bf16 without kernels for it may take minutes."""
    pretend(monkeypatch, {FLOAT32: [1.0], CONTIGUOUS: [0.5]})  # a round of bf16 would be a KeyError
    monkeypatch.setattr(
        fastest, "_undisturbed_s", lambda job, way, batches: 4.0 if way.amp == "bf16" else 1.0
    )
    made, sentence = choose_fastest(plan())
    assert settings(made) == ("none", "off")
    assert "steps take 4.0x as long in bf16 + channels-last, 4.0x in bf16 + contiguous" in sentence


def test_cached_features_leave_no_step_to_time(
    monkeypatch: pytest.MonkeyPatch, photo_folder: Callable[..., Path]
) -> None:
    monkeypatch.setattr(fastest, "trial_job", lambda *args, **kwargs: pytest.fail("it was tried"))
    frozen = plan(
        data={"data": str(photo_folder())},
        model={"name": "cnn", "freeze": "backbone", "args": {}},
        fit={"cache_features": "on"},
    )
    assert settings(choose_fastest(frozen)[0]) == ("none", "on")


def test_short_runs_are_float32_without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "_able", lambda *args: pytest.fail("it was tried"))
    made, sentence = choose_fastest(plan())
    assert (settings(made), sentence) == (("none", "on"), "")
    monkeypatch.setattr(fastest, "_undisturbed_s", lambda *args: 60.0)
    made, sentence = choose_fastest(plan(fit={"max_steps": 29}))
    assert (settings(made), sentence) == (("none", "on"), "")


def test_a_busy_machine_makes_no_run_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that waits for a core is as long as what it computes."""

    def wait(job: Any, way: Way, batches: Any) -> float:
        time.sleep(0.05)
        return 60.0

    monkeypatch.setattr(fastest, "_seconds", wait)
    monkeypatch.setattr(fastest, "_able", lambda *args: pytest.fail("it was tried"))
    assert settings(choose_fastest(plan())[0]) == ("none", "on")


def test_deterministic_runs_leave_nothing_to_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "trial_job", lambda *args, **kwargs: pytest.fail("it was tried"))
    made, sentence = choose_fastest(plan(fit={"deterministic": True}))
    assert settings(made) == ("none", "on")
    assert "--deterministic" in sentence


def test_numbers_are_computed_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "houses.csv"
    table.write_text("area,price\n" + "".join(f"{i}.5,{3 * i}.25\n" for i in range(60)))
    made = plan(data={"data": str(table)}, model={"name": "mlp", "args": {}}, fit={"epochs": 99})
    short = 0.02
    pretend(monkeypatch, {FLOAT32: [short], ONE_THREAD: [short]})  # bf16 would be a KeyError
    monkeypatch.setattr(fastest, "_undisturbed_s", lambda *args: short)
    monkeypatch.setattr(fastest, "_SHORTEST_RUN_S", 0.0)
    assert settings(choose_fastest(made)[0]) == ("none", "auto")


@pytest.mark.parametrize(
    ("step_s", "one_thread_s", "threads"),
    [
        (0.02, 0.01, 1),
        (0.02, 0.0195, None),
        (0.02, 0.03, None),
        (0.2, 0.1, None),
    ],
)
def test_one_thread_is_tried_where_steps_are_short(
    monkeypatch: pytest.MonkeyPatch, step_s: float, one_thread_s: float, threads: int | None
) -> None:
    pretend(
        monkeypatch, {FLOAT32: [step_s], CONTIGUOUS: [step_s], ONE_THREAD: [one_thread_s]}, kernels=False
    )
    monkeypatch.setattr(
        fastest,
        "_undisturbed_s",
        lambda job, way, batches: {ONE_THREAD: one_thread_s, Way("none", False, 1): 99.0}.get(
            way, step_s
        ),
    )
    monkeypatch.setattr(fastest, "_SHORTEST_RUN_S", 0.0)
    made, sentence = choose_fastest(plan(fit={"epochs": 9}))
    assert made.config.fit.threads == threads
    assert ("channels-last, 1 thread: 2.0x float32 + channels-last, 2 threads" in sentence) == (
        threads == 1
    )
    assert "x as long in float32 + channels-last, 1" not in sentence  # what is usual is not news
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_fastest(plan(fit={"epochs": 9}))[0].config.fit.threads is None


def test_a_real_trial_leaves_weights_and_layout_as_they_were() -> None:
    with trial_job(plan()) as trial:
        job = trial.job
        fastest.set_lr(job.optimizer, 0.0)
        weights = {name: p.detach().clone() for name, p in job.model.module.named_parameters()}
        batch = next(training_batches(job))
        for way in (FLOAT32, CONTIGUOUS, ONE_THREAD):
            assert fastest._seconds(job, way, [batch]) > 0
        assert torch.get_num_threads() == 2
        assert job.precision == resolve_precision("none", job.device)
        for name, parameter in job.model.module.named_parameters():
            assert torch.equal(parameter, weights[name])
            if parameter.ndim == 4:
                assert parameter.is_contiguous(memory_format=torch.channels_last)
        assert not job.model.module._forward_pre_hooks


def test_both_layouts_train_alike() -> None:
    losses = {}
    for layout in ("on", "off"):
        with trial_job(plan(fit={"channels_last": layout})) as trial:
            job, seen = trial.job, []
            kernel = next(p for p in job.model.module.parameters() if p.ndim == 4 and p.shape[1] > 1)
            assert kernel.is_contiguous() == (layout == "off")
            batches = training_batches(job)
            for batch in (next(batches) for _ in range(3)):
                output = optimizer_step(job, batch, batch.count)
                seen.append(float(output.loss_sum) / batch.count)
            batches.close()
            losses[layout] = seen
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-4)
