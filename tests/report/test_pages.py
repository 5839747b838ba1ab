"""The pages of real runs: what is recorded is in them, word for word and figure for figure."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from full_disk import full_disk
from html_pages import check_page
from PIL import Image
from tiny_data import write_csv

from dlcli.cli import main
from dlcli.commands.recording import record_evaluations
from dlcli.events import Event, Warned
from dlcli.runs.folder import RunFolder
from dlcli.runs.measurements import read_measurement
from dlcli.ui.text import figure

HOSTILE = "<script>alert(1)</script>"
NEXT = "</style><img src=x onerror=alert(2)>\"'&"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of texts whose classes, texts and folders are markup, evaluated and exported."""
    root = tmp_path_factory.mktemp("report")
    folder = root / "<b>data" / "x"
    folder.mkdir(parents=True)
    rows = [
        (f"{word} {i % 7} {HOSTILE if i % 5 else NEXT}", name)
        for i in range(120)
        for word, name in (("good fine", HOSTILE), ("bad poor", NEXT))
    ]
    data = write_csv(folder / "t.csv", ("text", "label"), rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train = ["train", "-m", "linear", "-d", str(data), "--epochs", "2", "--quiet", "--name", "one"]
        for args in (
            [*train, "--set", "fit.min_steps=0"],
            ["eval", "one", "--quiet"],
            ["export", "one", "--onnx", "--no-latency", "--quiet"],
        ):
            patch.setattr("sys.argv", ["/usr/bin/dlcli", *args])
            assert main(args) == 0
    return root


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of that run, in the current folder."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return RunFolder(Path("runs/one"))


@pytest.fixture
def warnings() -> tuple[list[str], Callable[[Event], None]]:
    found: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Warned):
            found.append(event.message)

    return found, emit


def result_of(run: RunFolder, name: str) -> dict[str, Any]:
    one = read_measurement(run, name)
    assert one is not None
    return one.result


def test_figures_are_those_of_the_record(here: RunFolder) -> None:
    page = check_page(here.report)
    rows: dict[str, list[str]] = {}
    for row in page.rows():
        rows.setdefault(row[0], row[1:])  # the results come first
    test, val = (result_of(here, f"eval-{split}") for split in ("test", "val"))
    for name, value in test["metrics"].items():
        assert rows[name][0].split()[0] == figure(value), name
        assert rows[name][1].split()[0] == figure(val["metrics"][name]), name
    assert figure(test["metrics"]["ece"]) in page.text
    (baseline,) = test["baselines"]
    assert f"majority {figure(baseline['value'])}" in page.text
    exported = result_of(here, "export-best.onnx")
    assert all(line in page.text for line in exported["verdict"])
    assert "export: one/best.onnx" in page.text
    for command in ("dlcli train -m linear", "dlcli eval one", "dlcli export one"):
        assert command in page.text
    assert rows["fit.epochs"][0] == "2"
    assert rows["fit.epochs"][-1] == "--epochs"


def test_names_and_texts_of_others_are_texts(here: RunFolder) -> None:
    page = check_page(here.report)
    assert "script" not in page.tags
    assert "img" not in page.tags  # only texts here
    for text in (HOSTILE, NEXT):
        assert text in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.html


def test_every_command_writes_it_anew_and_report_writes_the_same(
    here: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = here.report.read_text(encoding="utf-8")
    here.report.unlink()
    assert main(["report", "one", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["report"] == str(here.report)
    assert out["bytes"] == here.report.stat().st_size
    after = here.report.read_text(encoding="utf-8")
    assert after.partition("<footer>")[0] == before.partition("<footer>")[0]
    assert main(["report", "one", "-o", "sub/page.html"]) == 0
    check_page(Path("sub/page.html"))
    assert main(["report", "one", "-o", "page.txt"]) == 2


def test_runs_side_by_side(here: RunFolder) -> None:
    shutil.copytree(here.path, here.path.parent / "two")
    assert main(["report", "one", "two", "last"]) == 0
    page = check_page(here.path.parent / "report.html")
    metrics = result_of(here, "eval-test")["metrics"]
    assert ["loss", *[figure(metrics["loss"])] * 2] in page.rows()
    assert HOSTILE in page.text
    assert main(["runs"]) == 0  # a page among the runs is none


def test_open_shows_the_page(
    here: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))
    assert main(["report", "--open"]) == 0
    assert opened == [here.report.resolve().as_uri()]
    assert "no browser could be started" in capsys.readouterr().err


def test_what_was_measured_of_an_older_model_is_no_result_any_more(here: RunFolder) -> None:
    path = here.measured / "eval-test.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["model"]["loss"] += 1
    path.write_text(json.dumps(record), encoding="utf-8")
    assert main(["report"]) == 0
    page = check_page(here.report)
    assert "not measured on the test split yet: dlcli eval one" in page.text
    assert "Where it errs, on val" in page.text


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "measured/eval-test.json"])
@pytest.mark.parametrize("damage", ["cut", "other", "list", "gone", "types"])
def test_a_damaged_file_costs_its_part_of_the_page(here: RunFolder, name: str, damage: str) -> None:
    path = here.path / name
    raw = path.read_bytes()
    if (damage, name) == ("gone", "run.json"):
        path.unlink()
        assert main(["report", "one"]) == 1  # without it there is no run
        return
    if damage == "gone":
        path.unlink()
    else:
        types = (
            b'{"event": "EpochDone", "command": "eval", "result": {"metrics": 5}, "plan": [], "fit": 3}'
        )
        bad = {"cut": raw[: len(raw) // 2], "other": b"\xff\x00{]", "list": b"[1, 2]\n", "types": types}
        path.write_bytes(bad[damage])
    assert main(["report", "one"]) == 0
    page = check_page(here.report)
    # Lines of events that are incomplete are skipped, as everywhere.
    silent = damage == "gone" or (name == "metrics.jsonl" and damage != "types")
    assert ("Not shown" in page.text) == (not silent)
    assert "dlcli export one" in page.text  # the rest is there


HUGE = 10**400
ODD: list[tuple[str, list[str | int], Any]] = [
    ("measured/eval-test.json", ["result", "metrics", "accuracy"], 7.0),
    ("measured/eval-test.json", ["result", "metrics", "loss"], "inf"),
    ("measured/eval-test.json", ["result", "confusion", 0, 0], -5),
    ("measured/eval-test.json", ["result", "confusion", 0, 0], HUGE),
    ("measured/eval-test.json", ["result", "per_class", 0, "recall"], 1e9),
    ("measured/eval-test.json", ["result", "reliability", 0, "samples"], 0),
    ("measured/eval-test.json", ["result", "worst", 0, "preview", "image"], "https://example.org/x.png"),
    ("measured/eval-test.json", ["result", "worst", 0, "preview", "heat"], "https://example.org/x.png"),
    ("measured/eval-test.json", ["result", "worst", 0, "preview", "effects"], [["<b>" * 90, 1.0]]),
    ("measured/eval-test.json", ["result", "worst", 0, "preview", "text"], "x" * 5_000_000),
    ("measured/eval-test.json", ["result", "worst", 0, "input"], "\u202e\x00\ud800"),
    ("measured/eval-test.json", ["command"], "<b>"),
    ("run.json", ["layers"], [{"path": "p" * 4_000_000, "type": HOSTILE}]),
    ("run.json", ["machine", "memory_bytes"], HUGE),
    ("run.json", ["plan", "task", "kind"], "nothing"),
    ("run.json", ["versions"], {HOSTILE: NEXT}),
    ("run.json", ["resumed"], [{"argv": [HOSTILE, "\x1b[2J"]}]),
]


@pytest.mark.parametrize(("name", "keys", "value"), ODD, ids=range(len(ODD)))
def test_no_value_of_a_stranger_breaks_the_page(
    here: RunFolder, name: str, keys: list[str | int], value: Any
) -> None:
    content = json.loads((here.path / name).read_text(encoding="utf-8"))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (here.path / name).write_text(json.dumps(content), encoding="utf-8")
    assert main(["report", "one"]) == 0
    page = check_page(here.report)
    assert "script" not in page.tags


def test_events_of_a_stranger(here: RunFolder) -> None:
    lines = here.metrics.read_text(encoding="utf-8").splitlines()
    epoch = json.loads(next(line for line in lines if '"EpochDone"' in line))
    odd = ({"epoch": HUGE}, {"loss": 1e308}, {"lr": None}, {"val": {}})
    more = [json.dumps({**epoch, **one}) for one in odd]
    here.metrics.write_text("\n".join([*lines, *more]), encoding="utf-8")
    assert main(["report", "one"]) == 0
    assert "events are not of the form" in check_page(here.report).text


def test_a_report_that_cannot_be_written_is_one_warning(
    here: RunFolder, warnings: tuple[list[str], Callable[[Event], None]]
) -> None:
    found, emit = warnings
    before = here.report.read_bytes()
    with full_disk(1000):
        record_evaluations(here, [], "train", emit)
    assert len(found) == 1
    assert found[0].startswith("not in the report of run one: cannot write")
    assert here.report.read_bytes() == before


def test_a_finished_training_does_not_fail_for_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder is where a file of measurements should be."""
    monkeypatch.chdir(tmp_path)

    def blocked(run: RunFolder, *args: Any, **kwargs: Any) -> None:
        run.report.mkdir()
        original(run, *args, **kwargs)

    from dlcli.commands import recording

    original = recording._record
    monkeypatch.setattr(recording, "_record", blocked)
    rows = [(i % 5, i % 2) for i in range(40)]
    data = write_csv(tmp_path / "t.csv", ("x", "y"), rows)
    args = ["train", "-m", "linear", "-d", str(data), "--epochs", "1", "--set", "fit.min_steps=0"]
    assert main([*args, "--json", "--quiet"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["status"] == "finished"
    assert out.err.count("not in the report of run") == 1


def test_worst_images_are_the_pixels_of_the_model(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = photo_folder(per_class=12)
    args = ["train", "-m", "linear", "-d", str(data), "--img-size", "16", "--epochs", "1", "--quiet"]
    assert main([*args, "--set", "fit.min_steps=0", "--name", "p"]) == 0
    assert main(["eval", "p", "--explain", "--data", str(data)]) == 2  # nothing would be in a report
    assert main(["eval", "p", "--split", "val", "--explain", "--quiet"]) == 0
    explained = check_page(Path("runs/p/report.html"))
    assert "The second picture is light where" in explained.text
    heated = [target for target in explained.targets if target.startswith("data:")]
    assert main(["eval", "p", "--split", "val", "--quiet"]) == 0
    shutil.rmtree(data)  # a report needs no data
    assert main(["report"]) == 0
    page = check_page(Path("runs/p/report.html"))
    images = [target for target in page.targets if target.startswith("data:")]
    assert len(images) == result_of(RunFolder(Path("runs/p")), "eval-val")["samples"]
    assert heated[::2] == images
    assert len(heated) == 2 * len(images)
    with Image.open(io.BytesIO(base64.b64decode(images[0].partition(",")[2]))) as image:
        assert image.size == (16, 16)


def test_a_resumed_run_names_both_commands(
    here: RunFolder, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/dlcli", "train", "--resume", "one", "--epochs", "3"])
    assert main(["train", "--resume", "one", "--epochs", "3", "--quiet"]) == 0
    page = check_page(here.report)
    assert "dlcli train -m linear" in page.text
    assert "dlcli train --resume one --epochs 3" in page.text
    # What was measured of the model before is that of an older one, unless it is still the best.
    assert len(page.rows()) > 10
