"""What a table brings along that tells the target: row numbers, sorted ids, sums of columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlcli.config import TrainConfig
from dlcli.data.sources import open_source
from dlcli.datacheck.base import CheckOptions, DataReport, Finding
from dlcli.datacheck.checking import check_data
from dlcli.errors import UsageError
from dlcli.settings import validate

ROWS = 100


def check(path: Path | str, **data: Any) -> DataReport:
    config = validate(TrainConfig, {"data": {"data": str(path), **data}})
    return check_data(open_source(config.data, seed=0), CheckOptions(config))


def findings(report: DataReport, code: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == code]


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    rows = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(rows) + "\n")
    return path


def noise(seed: int) -> list[float]:
    return [round(value, 3) for value in np.random.default_rng(seed).normal(size=ROWS)]


def test_an_index_that_tells_the_class_is_no_input(tmp_path: Path) -> None:
    """Rows sorted by class, numbered, then shuffled: as a data frame with its index writes them."""
    order = np.random.default_rng(0).permutation(ROWS).tolist()
    columns = {"": order, "a": noise(1), "label": [("neg", "pos")[i // 50] for i in order]}
    report = check(write(tmp_path / "t.csv", columns))
    (finding,) = findings(report, "identifier-column")
    assert finding.examples == ("column_1",)
    assert "row numbers" in finding.message
    assert report.facts["model's input"] == "1 features of 1 column"


def test_a_target_that_is_a_sum_is_a_warning_and_a_column_that_is_one_a_note(tmp_path: Path) -> None:
    a, b = ([int(10 * value) for value in noise(seed)] for seed in (1, 2))
    c = [x - y for x, y in zip(a, noise(3), strict=True)]
    total = [x + y for x, y in zip(b, c, strict=True)]
    columns = {
        "a": a,
        "b": b,
        "c": c,
        "d": noise(4),
        "total": total,
        "y": [x + y for x, y in zip(a, b, strict=True)],
    }
    report = check(write(tmp_path / "t.csv", columns))
    (finding,) = findings(report, "target-sum")
    assert finding.level == "warning"
    assert "'y' is a + b" in finding.message
    (sums,) = findings(report, "sum-column")
    assert sums.level == "note"
    assert sums.examples == ("b = total - c",)


def test_sorted_ids_are_a_warning(tmp_path: Path) -> None:
    ids = np.cumsum(np.random.default_rng(0).integers(9, 99, ROWS)).tolist()
    labels = [("neg", "pos")[i // 50] for i in range(ROWS)]
    report = check(write(tmp_path / "t.csv", {"code": ids, "a": noise(1), "label": labels}))
    assert [finding.level for finding in findings(report, "sorted-id")] == ["warning"]
    report = check(tmp_path / "t.csv", keep=("code",))
    assert not findings(report, "sorted-id")


def test_words_that_are_all_rare_are_not_said_to_name_rows(tmp_path: Path) -> None:
    cabins = [f"{'ABC'[i % 3]}{i % 30}" if i % 2 else "" for i in range(300)]
    columns = {"Cabin": cabins, "x": noise(1) * 3, "y": [i % 2 for i in range(300)]}
    frequent = [f"w{i % 150}" if i < 200 else "often" for i in range(300)]
    report = check(write(tmp_path / "t.csv", {"word": frequent, **columns}))
    messages = [finding.message for finding in report.findings]
    assert not any("name or number" in message for message in messages)
    assert not any(message.startswith("train:") and "unknown value" in message for message in messages)


@pytest.mark.parametrize(
    ("setting", "shown"), [({"header": False}, "--no-header"), ({"header": True}, "--header")]
)
def test_a_set_known_by_name_refuses_a_header(setting: dict[str, bool], shown: str) -> None:
    with pytest.raises(UsageError, match=f"^{shown}: the data set iris"):
        check("iris", **setting)
