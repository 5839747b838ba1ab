"""Runs that tests begin and resume in their own process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlcli.config import TrainConfig
from dlcli.events import Event, ignore
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop.state import load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run


def train_run(
    root: Path, name: str, *settings: dict[str, Any], emit: Callable[[Event], None] = ignore
) -> RunFolder:
    """Train a new run of nested settings, of which the last win."""
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, *settings)))
    run = training.new_run(prepare_run(plan), root, name)
    training.train(prepare_run(plan), run, emit, state=None)
    return run


def resume_run(run: RunFolder) -> None:
    """Train a run on from its newest state, or from its beginning."""
    state, _ = load_newest(run.state)
    training.train(prepare_run(read_plan(read_run(run), fresh=state is None)), run, ignore, state=state)
