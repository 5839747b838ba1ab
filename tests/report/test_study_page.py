"""The page of a study: its records word for word, and nothing of them as markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from html_pages import check_page

from dlcli.cli import main

HOSTILE = "<script>alert(1)</script>"


def trial(number: int, value: float | None, status: str = "finished", **more: Any) -> dict[str, Any]:
    settings = {"optim.lr": 10.0**-number, "optim.optimizer": ["adam", HOSTILE][number % 2]}
    facts = {"run": "r", "model": "cnn", "settings": settings, "epochs": 3, "seconds": 1.5, "reason": ""}
    return {"number": number, "status": status, "value": value, **facts, **more}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "S"
    folder.mkdir(parents=True)
    record = {"monitor": "accuracy", "direction": 1, "task": "classification", "data": HOSTILE}
    (folder / "study.json").write_text(json.dumps({**record, "val_samples": 50}))
    row = {"metric": "accuracy", "difference": 0.2, "low": 0.1, "high": 0.3, "better": True}
    best = trial(2, 0.9, difference=row)
    trials = [
        trial(0, 0.7),
        trial(1, 0.6, "pruned"),
        best,
        trial(3, None, "failed", reason=HOSTILE),
    ]
    result = {
        "best": best,
        "trials": trials,
        "difference_from_default": row,
        "importance": {"optim.lr": 0.75, "optim.optimizer": 0.25},
        "test": {"metrics": {"accuracy": 0.8765}, "samples": 40},
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_a_study_on_one_page(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "S", "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["report"])
    assert path == Path("runs/S/report.html")
    html = path.read_text(encoding="utf-8")
    check_page(path)
    assert "<script" not in html
    for text in (
        "0.8765",
        "40 samples of the test split",
        "75 %",
        "is better than the default",
        "trial-002",
    ):
        assert text in html
    assert html.count('<path class="others c0"') == 2  # the other trials with a value
    assert main(["report", "S", "-o", "mine.html"]) == 0
    assert Path("mine.html").is_file()


def test_a_study_that_has_not_ended_or_is_damaged(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "result.json").write_text('{"best": 1}')
    assert main(["report", "S"]) == 1
    assert "cannot be shown: best" in capsys.readouterr().err
    (study / "result.json").unlink()
    assert main(["report", "S"]) == 1
    assert "has no result yet" in capsys.readouterr().err
