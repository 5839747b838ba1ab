"""What the recipes of models promise about the length of a run and the shape of its schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlcli.config import TrainConfig
from dlcli.settings import merge, validate
from dlcli.training.autotune.resolve import raise_epochs
from dlcli.training.loop.batch_plan import batch_bounds
from dlcli.training.optim.schedule import steps_without_patience
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan


def plan(data: Path | str, model: str, **fit: Any) -> Plan:
    """The plan of ``train --model MODEL --data DATA``, without trials."""
    typed = {"data": {"data": str(data)}, "model": {"name": model}, "fit": fit}
    return raise_epochs(make_plan(lambda recipe: validate(TrainConfig, merge(recipe, typed))))


def epoch_steps(made: Plan) -> int:
    return len(batch_bounds(len(made.source.splits["train"]), made.config.fit.step_samples)) - 1


def total_steps(made: Plan) -> int:
    return made.config.fit.epochs * epoch_steps(made)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 training texts of two classes, and 64 held out."""
    folder = tmp_path_factory.mktemp("questions")
    for split, count in (("train", 640), ("val", 32), ("test", 32)):
        lines = [f"{i % 2},question {i} of {split}" for i in range(count)]
        (folder / f"{split}.csv").write_text("\n".join(["label,text", *lines]))
    return folder


@pytest.mark.parametrize(
    ("model", "least"), [("cnn", 400), ("lstm", 600), ("gru", 600), ("rnn", 600), ("transformer", 600)]
)
def test_few_texts_train_for_hundreds_of_steps(questions: Path, model: str, least: int) -> None:
    assert total_steps(plan(questions, model)) == least
    assert total_steps(plan(questions, model, epochs=2)) == 20  # the user's


def test_the_cnn_of_few_images_trains_for_300_steps() -> None:
    made = plan("digits", "cnn")
    assert 0 <= total_steps(made) - 300 < epoch_steps(made)


def test_the_cnn_of_texts_is_at_its_peak_rate_after_a_tenth_of_the_run(questions: Path) -> None:
    made = plan(questions, "cnn")
    assert steps_without_patience(total_steps(made), made.config.optim) == 40
