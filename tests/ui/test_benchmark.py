"""A benchmark's tables, CSV and picture, from made-up figures."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dlcli.benchmark.report import BenchmarkResult, BenchmarkRow
from dlcli.benchmark.slot import RunSpec, Timing
from dlcli.benchmark.statistics import Ratio, speed_of
from dlcli.cli import main
from dlcli.ui.benchmark import FIELDS, names_of, print_benchmark, write_csv
from dlcli.ui.json_output import to_json
from dlcli.ui.plots.benchmark import save_benchmark
from dlcli.ui.text import milliseconds, speed


def row(
    name: str, ms: float, accuracy: float, *, backend: str = "", front: tuple[str, ...] = ()
) -> BenchmarkRow:
    path = Path("runs/r18") / name
    timing = Timing(
        RunSpec(path, backend or "eager"),
        {size: speed_of(size, [[ms * size, 1.2 * ms * size, 9 * ms * size]] * 2) for size in (1, 32)},
        startup_s=2.345,
        peak_mib=612.0,
        device="cpu (2 threads)",
    )
    return BenchmarkRow(
        path=path,
        format="onnx",
        backend=backend,
        amp="none",
        size_bytes=44_777_184,
        params=11_181_642,
        macs=592_000_000,
        metric="accuracy",
        metrics={"accuracy": accuracy, "loss": 0.7},
        agreement=0.9812,
        samples=372,
        timing=timing,
        speedup={size: Ratio(10.9 / ms, 10.2 / ms, 11.7 / ms) for size in (1, 32)},
        front=front,
    )


def result(*more: BenchmarkRow) -> BenchmarkResult:
    rows = (
        row("best.safetensors", 10.9, 0.8145, backend="eager"),
        row("best.safetensors", 9.1, 0.8145, backend="compile", front=("latency", "size")),
        row("best.int8-static-with-a-long-name.onnx", 2.3, 0.8011, front=("latency", "size")),
        *more,
    )
    return BenchmarkResult(rows, (1, 32), threads=2, seconds=2.0, rounds=5, split="test", inputs="real")


FAILED = BenchmarkRow(
    Path("runs/r18/best.aoti.pt2"), "aoti", "", "none", 9000, error="it needs g++ " * 12
)


@pytest.mark.parametrize("flag", ["--csv", "--plot"])
def test_a_file_that_cannot_be_written_costs_no_figure(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dlcli.benchmark.run.benchmark", lambda *args, **kwargs: result())
    model, place = tmp_path / "best.onnx", tmp_path / "taken"
    model.touch()
    place.touch()
    assert main(["benchmark", str(model), flag, str(place / "out.png"), "--json"]) == 1
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["rows"]) == 3
    assert str(place) in captured.err


@pytest.mark.parametrize("width", [80, 140])
def test_nothing_is_cut_at_any_width(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_benchmark(result(FAILED), {"csv": Path("x.csv"), "plot": None})
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    costs = ("44.8 MB", "11.2 M", "592 M", "0.8145", "98.12%", "612 MiB", "2.3 s", "latency, size")
    for text in (*costs, "samples/s", "4.74 (4.43 to 5.09)", "failed", "x.csv", "372 samples of test"):
        assert text in out
    assert out.count("\nmodels") == (2 if width == 80 else 1)


DOUBT = "other programs used 3.9 of the 2 cores"


def doubtful(ratio: float = 7838.0) -> BenchmarkResult:
    """What a busy machine gives: every figure has its doubt."""
    rows = []
    for entry in result().rows:
        assert entry.timing is not None
        speeds = {size: replace(speed, doubt=DOUBT) for size, speed in entry.timing.speeds.items()}
        ratios = {size: Ratio(ratio, ratio, ratio, DOUBT) for size in speeds}
        rows.append(replace(entry, timing=replace(entry.timing, speeds=speeds), speedup=ratios))
    return replace(result(), rows=tuple(rows), busy_cores=3.9, doubt=DOUBT)


def test_a_doubt_is_in_the_table_the_csv_the_json_and_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    print_benchmark(doubtful(), {})
    out = capsys.readouterr().out
    assert "7838" not in out
    assert out.count(DOUBT) == 1
    assert out.count("not known") == 1 + 2 * 2
    write_csv(tmp_path / "out.csv", doubtful())
    with (tmp_path / "out.csv").open(newline="") as file:
        assert {line["doubt"] for line in csv.DictReader(file)} == {DOUBT}
    data = json.loads(to_json(doubtful().to_dict()))
    assert data["doubt"] == data["rows"][1]["speedup"]["1"]["doubt"] == DOUBT
    assert data["rows"][1]["latency"]["1"]["doubt"] == DOUBT
    drawn: list[str] = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.suptitle", lambda self, text, **kwargs: drawn.append(text)
    )
    save_benchmark(tmp_path / "out.png", doubtful())
    assert DOUBT in drawn[0]


def test_cpu_time_is_named_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    print_benchmark(replace(result(), clock="cpu", busy_cores=1.9), {})
    assert "CPU time of one thread: other programs used 1.9 cores" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("ms", "text", "per_second", "rate_text"),
    [
        (0.01234, "0.0123", 81000.4, "81,000"),
        (2568.3, "2568", 0.389, "0.389"),
        (999.7, "1000", 12.34, "12.3"),
        (float("nan"), "-", 0.0004, "0.0004"),
    ],
)
def test_latencies_and_rates_are_spelled_for_people(
    ms: float, text: str, per_second: float, rate_text: str
) -> None:
    assert milliseconds(ms) == text
    assert speed(per_second) == rate_text


def test_files_of_several_runs_are_distinguished() -> None:
    rows = [BenchmarkRow(Path(f"runs/{run}/best.onnx"), "onnx", "", "none", 1) for run in "ab"]
    assert names_of(rows) == ["a/best.onnx", "b/best.onnx"]
    assert names_of([row("best.onnx", 1, 1), row("best.safetensors", 1, 1, backend="compile")]) == [
        "best.onnx",
        "best.safetensors, compile",
    ]


def test_the_csv_has_a_line_for_each_row_and_batch_size(tmp_path: Path) -> None:
    write_csv(tmp_path / "out.csv", result(FAILED))
    with (tmp_path / "out.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == FIELDS
    assert [line["batch_size"] for line in lines] == ["1", "32"] * 3 + [""]
    assert float(lines[5]["p50_ms"]) == pytest.approx(1.2 * 2.3 * 32)
    assert float(lines[5]["speedup"]) == pytest.approx(10.9 / 2.3)
    assert lines[5]["front"] == "latency size"
    assert lines[-1]["error"] == FAILED.error
    assert lines[0]["value"] == "0.8145"


def test_the_json_has_before_and_afters_names() -> None:
    said = json.loads(to_json(result(FAILED).to_dict()))
    assert said["failed"] == 1
    first, last = said["rows"][0], said["rows"][-1]
    assert {"size_bytes", "params", "latency_ms", "metrics", "agreement"} <= set(first)
    assert set(first["latency_ms"]) == {"1", "32"}
    assert first["latency"]["32"]["p99_ms"] > first["latency"]["32"]["p50_ms"]
    assert first["speedup"]["1"]["low"] < first["speedup"]["1"]["high"]
    assert last["error"] == FAILED.error
    assert last["latency_ms"] == {}


@pytest.mark.parametrize("scored", [True, False])
def test_the_picture_is_drawn_also_with_rows_that_failed(tmp_path: Path, scored: bool) -> None:
    found = result(FAILED)
    if not scored:
        bare = [
            BenchmarkRow(r.path, r.format, r.backend, "none", 1, timing=r.timing) for r in found.rows
        ]
        found = BenchmarkResult(tuple(bare), (1, 32), 2, 2.0, 5, "", "random")
    path = save_benchmark(tmp_path / "plots" / "benchmark.png", found)
    with Image.open(path) as image:
        assert image.width > (1800 if scored else 900)
