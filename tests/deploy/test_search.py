"""Bounds, and the search for a candidate within one."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dlcli.compress.channels.prune import NothingToPrune
from dlcli.config import parse_bound
from dlcli.deploy.prune import prune as pruning
from dlcli.deploy.prune.pipeline import PruneCandidate, PruneJob
from dlcli.deploy.prune.transform import PruneTarget
from dlcli.deploy.reference import MetricDelta
from dlcli.deploy.search import BoundSearch, Candidate
from dlcli.events import ignore
from dlcli.formats.base import FORMATS, ModelFile
from dlcli.runs.folder import RunFolder


def delta_of(drop: float, before: float = 0.95) -> MetricDelta:
    return MetricDelta({}, "accuracy", before, -drop, -1.0, 1.0, drop, None)


def test_a_bound_that_is_just_met_is_kept() -> None:
    assert 0.95 - 0.94 > 0.01  # of floats
    assert delta_of(0.95 - 0.94).within(parse_bound("0.01"))
    assert delta_of(0.9 - 0.855, 0.9).within(parse_bound("5%"))
    assert not delta_of(0.95 - 0.9399).within(parse_bound("0.01"))
    assert not delta_of(math.nan).within(parse_bound("0.01"))
    assert delta_of(0.0, 0.0).within(parse_bound("1%"))
    assert not delta_of(1e-6, 0.0).within(parse_bound("1%"))


def search(drops: dict[float, float | None], bound: str) -> tuple[float, list[float]]:
    """Search amounts with these drops (None: nothing to prune); return the best, and all tried."""
    allowed = parse_bound(bound)

    def build(target: PruneTarget, name: str) -> PruneCandidate:
        drop = drops[target.value]
        if drop is None:
            raise NothingToPrune("an amount that removes nothing")
        return PruneCandidate(
            delta=delta_of(drop),
            size_bytes=1,
            within_bound=delta_of(drop).within(allowed),
            target=target,
            run=RunFolder(Path(name)),
            file=ModelFile(Path(name), FORMATS.get("safetensors")),
            params=1,
            macs=1,
            layers=(),
            zeros=(0, 0),
            elapsed_s=0.0,
        )

    job = cast(PruneJob, SimpleNamespace(build=build, emit=ignore, cost=lambda: ""))
    targets = [PruneTarget("amount", amount) for amount in drops]
    best, candidates = pruning.search(job, targets, "net-l1")
    return best.target.value, [candidate.target.value for candidate in candidates]


def test_an_amount_that_takes_nothing_out_does_not_end_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "drop_run", lambda run: None)
    assert search({0.2: None, 0.4: 0.3, 0.6: 0.5}, "0.1") == (0.4, [0.4])
    assert search({0.2: None, 0.4: None, 0.6: 0.05}, "0.1") == (0.6, [0.6])
    with pytest.raises(NothingToPrune):
        search({0.2: None, 0.4: None, 0.6: None}, "0.1")


def test_a_search_keeps_no_model_whose_metric_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "drop_run", lambda run: None)
    assert search({0.2: 0.4, 0.4: math.nan, 0.6: 0.5}, "0.1") == (0.2, [0.4, 0.2])


def test_of_equal_candidates_the_first_keeps_its_files() -> None:
    discarded: list[Candidate] = []
    search = BoundSearch[Candidate](rank=lambda c: (c.loss, c.size_bytes), discard=discarded.append)
    first, equal, better = (
        Candidate(delta=delta_of(drop), size_bytes=1, within_bound=kept)
        for drop, kept in ((0.2, False), (0.2, False), (0.1, True))
    )
    assert search.try_in_order(iter([first, equal, better, first]))  # the last one is never built
    assert search.best is better
    assert [id(c) for c in search.candidates] == [id(c) for c in (first, equal, better)]
    assert [id(c) for c in discarded] == [id(c) for c in (equal, first)]
