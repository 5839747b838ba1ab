"""What commands measured: written and read again, and damaged files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dlcli.errors import DlcliError
from dlcli.runs.folder import RunFolder, check_links
from dlcli.runs.measurements import read_measurement, read_measurements, write_measurement


def write(run: RunFolder, name: str, **result: object) -> None:
    write_measurement(run, name, command="eval", model={"loss": math.inf, "r2": math.nan}, result=result)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write(run, "eval-test", value=1.5, rows=((1, None), ()), path=Path("a/b"), bad=-math.inf)
    one = read_measurement(run, "eval-test")
    assert one is not None
    assert one.result == {"value": 1.5, "rows": [[1, None], []], "path": "a/b", "bad": "-inf"}
    assert one.model["loss"] == math.inf
    assert math.isnan(one.model["r2"])
    assert (one.command, one.name) == ("eval", "eval-test")
    assert one.argv
    assert one.started_at


def test_names_are_safe_and_the_oldest_comes_first(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write(run, "z/../../evil")
    write(run, "a")
    measurements, problems = read_measurements(run)
    assert [one.name for one in measurements] == ["z-..-..-evil", "a"]
    assert problems == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["measured"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"command": 1, "result": 2}', "\x00"])
def test_a_damaged_file_is_a_problem_and_no_measurement(tmp_path: Path, text: str) -> None:
    run = RunFolder(tmp_path)
    write(run, "good")
    (run.measured / "bad.json").write_text(text, encoding="utf-8")
    measurements, problems = read_measurements(run)
    assert [one.name for one in measurements] == ["good"]
    assert len(problems) == 1
    assert "bad.json" in problems[0]
    assert read_measurement(run, "bad") is None
    assert read_measurement(run, "none") is None


def test_a_link_out_of_the_run_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    run.path.mkdir()
    run.measured.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DlcliError, match="is a link out of the run folder"):
        check_links(run.path)
