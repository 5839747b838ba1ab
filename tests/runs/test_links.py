"""Links in a run folder lead no write out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlcli.errors import DlcliError
from dlcli.runs.locks import run_lock


@pytest.mark.parametrize("name", ["lock", "state", "plots", "metrics.jsonl", "state/step-1"])
def test_parts_that_are_links_out_of_the_run_are_refused(tmp_path: Path, name: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    (run / name).parent.mkdir(parents=True)
    outside.write_text("precious")
    (run / name).symlink_to(outside)
    with pytest.raises(DlcliError, match="link out of the run folder"), run_lock(run):
        pass
    assert outside.read_text() == "precious"


def test_a_lock_that_is_a_second_name_of_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "run" / "lock").hardlink_to(tmp_path / "outside")
    with pytest.raises(DlcliError, match="second name"), run_lock(tmp_path / "run"):
        pass
    assert (tmp_path / "outside").read_text() == "precious"


def test_links_within_the_run_are_fine(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    with run_lock(tmp_path):
        pass
