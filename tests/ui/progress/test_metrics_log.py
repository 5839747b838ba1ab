from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fake_run
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcli.errors import DlcliError
from dlcli.events import EvalProgress, Warned
from dlcli.runs.folder import read_events
from dlcli.ui.progress.metrics_log import MetricsLog, truncate_events


def write(path: Path, lines: list[dict[str, object]], torn: bytes = b"") -> None:
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines) + torn)


def test_every_event_but_progress_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path) as log:
        for event in fake_run.run():
            log(event)
    kept = [e for e in fake_run.run() if not isinstance(e, EvalProgress)]
    assert read_events(path) == [json.loads(json.dumps(event.to_dict())) for event in kept]


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log(fake_run.step_done(1))
        assert len(read_events(path)) == 1


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log(replace(fake_run.epoch_done(1), loss=float("nan"), val={"loss": float("-inf")}))
    (event,) = read_events(path)
    assert event["loss"] is None
    assert event["val"] == {"loss": None}
    assert "NaN" not in path.read_text()


def test_odd_names_survive(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    name = "caf\u00e9 \n \udcff [red]"  # a lone surrogate stands for a byte that is no UTF-8
    with MetricsLog(path) as log:
        log(Warned(name))
    assert read_events(path)[0]["message"] == name


def test_appending_after_a_torn_line_loses_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [{"event": "StepDone", "step": 1}], torn=b'{"event": "Ste')
    with MetricsLog(path) as log:
        log(fake_run.step_done(2))
    assert [event["step"] for event in read_events(path)] == [1, 2]


def test_what_has_no_step_goes_with_what_was_dropped_before_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(
        path,
        [
            {"event": "RunStarted"},
            {"event": "StepDone", "step": 3},
            {"event": "Warned", "message": "early"},
            {"event": "StepDone", "step": 5},
            {"event": "Warned", "message": "late"},
        ],
        torn='{"event": "Warned", "message": "caf\u00e9'.encode()[:-1],
    )
    truncate_events(path, 4)
    assert [event.get("message", event["event"]) for event in read_events(path)] == [
        "RunStarted", "StepDone", "early",
    ]  # fmt: skip


def test_a_missing_log_stays_missing(tmp_path: Path) -> None:
    truncate_events(tmp_path / "metrics.jsonl", 4)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match=r"metrics\.jsonl"):
        read_events(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(DlcliError, match=r"cannot write .*metrics\.jsonl"):
        MetricsLog(tmp_path / "metrics.jsonl")(fake_run.STARTED)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=12),
    keep=st.integers(0, 9),
    fewer=st.integers(0, 9),
    torn=st.binary(max_size=6).filter(lambda raw: b"\n" not in raw and not raw.strip().startswith(b"{")),
)
def test_truncation_invariants(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[int | None],
    keep: int,
    fewer: int,
    torn: bytes,
) -> None:
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    lines = [{"id": i} if step is None else {"id": i, "step": step} for i, step in enumerate(steps)]
    write(path, lines, torn)

    truncate_events(path, keep)
    once = path.read_bytes()
    ids = [event["id"] for event in read_events(path)]
    gone = [i for i, step in enumerate(steps) if step is not None and step > keep]
    assert all(line in (json.dumps(entry).encode() for entry in lines) for line in once.splitlines())
    assert ids == sorted(ids)
    assert not set(ids) & set(gone)
    assert {i for i, step in enumerate(steps) if step is not None and step <= keep} <= set(ids)
    assert {i for i, step in enumerate(steps) if step is None and i < min(gone, default=99)} <= set(ids)

    truncate_events(path, keep)
    assert path.read_bytes() == once
    if fewer <= keep:  # by stages or at once: the same
        truncate_events(path, fewer)
        staged = path.read_bytes()
        write(path, lines, torn)
        truncate_events(path, fewer)
        assert path.read_bytes() == staged
