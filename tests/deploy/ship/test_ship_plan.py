"""The plan of `ship` fits into its time, and its choice is beaten by no attempt."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcli.benchmark.statistics import Ratio
from dlcli.compress.quantize.base import in_auto_order
from dlcli.config import ShipConfig, ShipSettings
from dlcli.config.ship import TARGETS
from dlcli.deploy.reference import MetricDelta
from dlcli.deploy.ship import targets
from dlcli.deploy.ship.attempts import Attempt
from dlcli.deploy.ship.choice import best_of, bounds_of, pareto_of
from dlcli.deploy.ship.plan import Facts, make_plan, planned_seconds
from dlcli.deploy.ship.targets import Target, target_of
from dlcli.errors import UsageError
from dlcli.settings import validate

X86 = Target("cpu-x86", "x86")
FAMILIES = ("conv", "recurrent", "attention", "dense")


def facts(family: str = "conv", *, epoch_s: float | None = 60.0, trainable: bool = True) -> Facts:
    student = {"name": "cnn", "epochs": 10, "epoch_s": epoch_s and epoch_s / 2}
    values = {"family": family, "trainable": trainable, "epochs": (5, 1), "epoch_s": epoch_s}
    return Facts.model_validate({**values, "fixed_s": 20, "students": [student] * trainable})


def attempt(label: str, size: int, drop: float, faster: float | None = 1.0) -> Attempt:
    """An attempt on a model with an accuracy of 0.9; ``faster`` is how many times as fast it is."""
    delta = MetricDelta({"accuracy": 0.9 - drop}, "accuracy", 0.9, -drop, -1, 1, drop, 0.9)
    timed = faster is not None
    return Attempt(
        label=label,
        how=label,
        file=f"{label}.onnx",
        format="onnx",
        tried=1,
        own_drop=0.0,
        recipe={},
        size_bytes=size,
        params=1,
        delta=delta,
        latency_ms={"1": 2 / faster, "32": 50.0} if faster is not None else {},
        speedup={"1": Ratio(faster, faster, faster)} if faster is not None else {},
        split="val",
        samples=100,
        device="cpu",
        clock="wall",
        busy_cores=0.0,
        untimed="" if timed else "no GPU",
        elapsed_s=1.0,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_needs_no_training_comes_first_and_is_what_quantize_tries(family: str) -> None:
    plan = make_plan(facts(family), X86, None)
    trained = [one.epochs > 0 for one in plan.attempts]
    assert trained == sorted(trained)
    assert plan.left_out == ()
    methods = [m for m in in_auto_order() if m.backend == "onnxruntime" and family not in m.auto_except]
    assert {m.name for m in methods} <= {one.method for one in plan.attempts if one.kind == "original"}
    labels = [one.label for one in plan.attempts]
    assert len(set(labels)) == len(labels) == len({one.name for one in plan.attempts})
    for number, one in enumerate(plan.attempts):
        assert one.condition is None or one.condition.label in labels[:number]


def test_more_is_pruned_where_half_kept_the_bound_and_less_where_not() -> None:
    pruned = {one.amount: one for one in make_plan(facts(), X86, None).attempts if one.amount}
    half = pruned.pop(0.5)
    assert half.condition is None
    conditions = {amount: one.condition for amount, one in pruned.items()}
    expected = {0.7: (half.label, True), 0.85: ("pruned70-static", True), 0.3: (half.label, False)}
    assert {amount: (c.label, c.holds) for amount, c in conditions.items() if c} == expected


@given(st.floats(1, 2000), st.sampled_from(FAMILIES), st.floats(0.5, 200))
def test_a_plan_fits_into_its_time(limit_s: float, family: str, epoch_s: float) -> None:
    plan = make_plan(facts(family, epoch_s=epoch_s), X86, limit_s)
    assert plan.seconds is not None
    assert plan.seconds <= limit_s + 1e-6
    whole = make_plan(facts(family, epoch_s=epoch_s), X86, None)
    assert len(plan.attempts) + len(plan.left_out) == len(whole.attempts)
    if limit_s >= planned_seconds(whole.attempts):
        assert plan == whole
    assert all(one.epochs >= 1 for one in plan.attempts if one.kind == "pruned")


@given(st.floats(1, 2000), st.floats(1, 2000), st.sampled_from(FAMILIES), st.integers(0, 10))
def test_what_is_finished_is_always_in_the_plan_and_takes_no_time(
    limit_s: float, later_s: float, family: str, count: int
) -> None:
    first = make_plan(facts(family), X86, limit_s)
    done = {one.name for one in first.attempts[:count]}
    plan = make_plan(facts(family), X86, later_s, lambda one: one.name in done)
    assert plan.seconds is not None
    assert plan.seconds <= later_s + 1e-6
    anew = {one.label: one.epochs for one in make_plan(facts(family), X86, later_s).attempts}
    planned = {one.label: one for one in plan.attempts}
    for one in first.attempts[:count]:
        if one.epochs >= anew.get(one.label, 0):  # else there is time to train it for longer
            assert (planned[one.label].name, planned[one.label].estimate_s) == (one.name, 0.0)
    # In the same time what has begun keeps its epochs.
    again = make_plan(facts(family), X86, limit_s, lambda one: one.name in done)
    epochs = {one.label: one.epochs for one in again.attempts}
    assert all(epochs.get(one.label, one.epochs) == one.epochs for one in first.attempts)


def test_fine_tuning_gets_fewer_epochs_before_it_is_left_out() -> None:
    # Four files without training at 20 s, and one model of 5 epochs at 60 s: room for two epochs.
    cheap = len([one for one in make_plan(facts(), X86, None).attempts if not one.epochs])
    plan = make_plan(facts(), X86, 20.0 * (cheap + 1) + 150)
    assert {one.label: one.epochs for one in plan.attempts if one.amount}["pruned50-static"] == 2
    assert "pruned70-static" in {one.label for one in plan.left_out}


def test_a_time_that_is_not_known_plans_everything_and_says_so() -> None:
    plan = make_plan(facts(epoch_s=None), X86, 200.0)
    assert (plan.seconds, plan.left_out) == (None, ())


def test_weights_that_torch_cannot_use_are_neither_pruned_nor_trained() -> None:
    assert all(not one.epochs for one in make_plan(facts(trainable=False), X86, None).attempts)


def test_files_that_differ_by_the_processor_have_other_names() -> None:
    names = [
        {one.name for one in make_plan(facts(), target, None).attempts if one.method == "static"}
        for target in (X86, Target("arm", "arm"), Target("browser", "x86", reduce_range=True))
    ]
    assert not names[0] & names[1]
    assert not (names[0] | names[1]) & names[2]


_ATTEMPTS = st.lists(
    st.tuples(st.integers(1, 50), st.integers(-3, 8), st.integers(1, 20)), min_size=1, max_size=8
)


@given(_ATTEMPTS, st.booleans())
def test_no_attempt_within_the_bounds_is_smaller_faster_and_passed_over(
    values: list[tuple[int, int, int]], timed: bool
) -> None:
    attempts = [
        attempt(str(n), size * 1000, drop / 100, float(faster) if timed else None)
        for n, (size, drop, faster) in enumerate(values)
    ]
    bounds = bounds_of(ShipConfig(max_drop="0.03", max_size="30kB"))
    chosen = best_of(attempts, bounds)
    fit = [one for one in attempts if not bounds.excesses(one)]
    assert bool(fit) == (chosen in fit)
    times = {one.label: 1 / one.faster.median if one.faster else 0.0 for one in attempts}
    for one in fit:
        worse = (chosen.size_bytes, times[chosen.label]), (one.size_bytes, times[one.label])
        assert not (worse[0] != worse[1] and all(a >= b for a, b in zip(*worse, strict=True)))
    front = pareto_of(attempts)
    assert front
    for one in attempts:  # each is on the front, or one of it is as good in all
        assert any(
            other is one
            or (
                other.delta.drop <= one.delta.drop
                and other.size_bytes <= one.size_bytes
                and times[other.label] <= times[one.label]
            )
            for other in front
        )


def test_where_no_attempt_keeps_the_bounds_the_closest_is_chosen() -> None:
    attempts = [attempt("float", 40_000, 0.0), attempt("int8", 10_000, 0.0), attempt("tiny", 900, 0.5)]
    assert best_of(attempts, bounds_of(ShipConfig(max_size="1kB"))).label == "tiny"  # misses one by 50
    assert best_of(attempts, bounds_of(ShipConfig(max_size="9kB"))).label == "int8"
    unknown = attempt("float", 40_000, 0.0, None)
    assert list(bounds_of(ShipConfig(max_latency="1ms")).excesses(unknown).values()) == [math.inf]


@pytest.mark.parametrize("name", TARGETS)
def test_a_latency_is_judged_where_it_is_that_of_the_target(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "cpu_target", lambda: "x86")
    monkeypatch.setattr(targets, "_has_cuda", lambda: False)
    settings = validate(ShipSettings, {"ship": {"target": name, "max_latency": "2ms"}})
    here = validate(ShipSettings, {"ship": {**settings.ship.model_dump(), "judge_here": True}})
    if name == "cpu-x86":
        assert target_of(settings).own_latency
        return
    with pytest.raises(UsageError, match="cannot be judged"):
        target_of(settings)
    if name == "cuda":
        with pytest.raises(UsageError, match="no CUDA device"):
            target_of(here)
    else:
        assert target_of(here).note
