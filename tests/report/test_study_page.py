"""The page of a study: its records word for word, and nothing of them as markup."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from html_pages import check_page
from study_records import write_study

from dlcli.cli import main


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path)


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
