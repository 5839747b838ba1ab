"""`dlcli info --bench`: what is measured, how often, and how it is shown."""

from __future__ import annotations

import io
import json
import time
from itertools import pairwise

import pytest

from dlcli.benchmark import machine
from dlcli.benchmark.machine import Measurement, measure_machine, speedups, time_calls
from dlcli.machine.child import Outcome
from dlcli.machine.probe import Steps
from dlcli.ui.info_bench import bench_sections

ROWS = [
    Measurement("matmul float32", "cpu", "2500 x 2500", "TFLOP/s", 0.05, 0.04, 0.06, 5),
    Measurement("matmul float32", "cuda:0", "5000 x 5000", "TFLOP/s", 50.0, 49.0, 51.0, 200),
    Measurement("matmul TF32", "cuda:0", "5000 x 5000", "TFLOP/s", 400.0, 390.0, 410.0, 900),
    Measurement("copy to the device", "cuda:0", "256 MiB", "GB/s", 12.3, 12.0, 12.5, 40),
    Measurement("conv2d float32", "cuda:0", error="RuntimeError: cuDNN error"),
]


def records(device: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """What the child writes of a device, measured on little."""
    little = {"SECONDS": 0.0, "CALLS": 2, "_SIZE": 64, "_COPY_BYTES": 1 << 16, "_PIXELS": 32}
    for name, value in (little | {"_CPU_BATCH": 2, "_BATCH": 2}).items():
        monkeypatch.setattr(machine, name, value)
    monkeypatch.setattr(machine, "_CONV", (1, 8, 8))
    out = io.StringIO()
    machine._measure(Steps(out), device)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line for line in lines if line["state"] == "failed"] == []
    return {line["step"]: line["value"] for line in lines if line["state"] == "done"}


def test_the_cpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    values = records("cpu", monkeypatch)
    expected = {"matmul float32", "matmul bfloat16", "conv2d float32", "conv2d bfloat16"}
    expected |= {"memory bandwidth", "ResNet-18 step float32", "JPEG decoding"}
    assert {f"{what} on cpu" for what in expected} <= set(values)
    for value in values.values():
        assert 0 < value["low"] <= value["rate"] <= value["high"]  # type: ignore[operator]
        assert value["calls"] == 2


@pytest.mark.gpu
def test_a_gpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    values = records("cuda:0", monkeypatch)
    assert {"matmul TF32 on cuda:0", "copy from pinned memory on cuda:0"} <= set(values)


def test_calls_are_repeated_for_a_time_and_a_number_but_not_beyond_a_limit() -> None:
    starts: list[float] = []

    def call() -> None:
        starts.append(time.perf_counter())
        time.sleep(0.01)

    def wait() -> None:
        pass

    assert len(time_calls(call, wait, seconds=0.0, limit_s=9)) == machine.CALLS
    assert len(starts) == machine.CALLS + 1  # the first is not counted
    assert all(later - earlier > 0.009 for earlier, later in pairwise(starts))
    assert sum(time_calls(call, wait, seconds=0.2, limit_s=9)) >= 0.2
    assert len(time_calls(call, wait, seconds=9, limit_s=0.0)) == 1


def test_ratios_are_to_the_cpu_in_the_same_precision_or_in_float32() -> None:
    assert speedups(ROWS) == {
        ("matmul float32", "cuda:0"): pytest.approx(1000),
        ("matmul TF32", "cuda:0"): pytest.approx(8000),
    }


def test_a_measurement_that_kills_the_child_is_a_row_with_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value = {"size": "5000 x 5000", "unit": "TFLOP/s", "rate": 0.1, "low": 0.1, "high": 0.1, "calls": 5}
    outcomes = {
        "matmul float32 on cpu": Outcome(value),
        "matmul bfloat16 on cpu": Outcome(error="it crashed with SIGILL"),
    }
    monkeypatch.setattr(machine, "run_probe", lambda *args, **options: outcomes)
    good, crashed = measure_machine("cpu")
    assert (good.what, good.device, good.rate) == ("matmul float32", "cpu", 0.1)
    assert (crashed.what, crashed.rate, crashed.error) == (
        "matmul bfloat16",
        None,
        "it crashed with SIGILL",
    )


@pytest.mark.parametrize("width", [80, 140])
def test_the_speeds_fit_and_say_range_and_ratio(width: int) -> None:
    sections = bench_sections(ROWS, speedups(ROWS), width)
    assert [section.title for section in sections] == ["Speed of cpu", "Speed of cuda:0"]
    lines = [row.value for section in sections for row in section.rows]
    assert max(map(len, lines)) <= width - 12
    assert "50.0 GFLOP/s" in lines[0]
    assert "1000 x the CPU" in lines[1]
    assert ("49.0 to 51.0, n=200" in lines[1]) is (width == 140)
    assert "cuDNN error" in lines[-1]
