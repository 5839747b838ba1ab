"""Which epoch is the best, for the saved model and for patience alike; models that answer NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.cli import main
from dlcli.config import OptimConfig, TrainConfig
from dlcli.errors import Diverged, DlcliError
from dlcli.events import EpochDone, Event, Warned
from dlcli.formats.base import Runtime, recognize
from dlcli.formats.checkpoint import card_of, open_checkpoint, save_model
from dlcli.runs.folder import RunFolder
from dlcli.settings import merge, validate
from dlcli.training import build_job, validation
from dlcli.training import run as training
from dlcli.training.loop.best import Score
from dlcli.training.loop.state import Progress, load_newest
from dlcli.training.model_card import make_card
from dlcli.training.optim.schedule import Plateau
from dlcli.training.planning import make_plan
from dlcli.training.prepare import prepare_run

NAN, INF = math.nan, math.inf
BASE = {
    "data": {"data": "digits"},
    "model": {"name": "mlp", "args": {"widths": [4]}},
    "fit": {"epochs": 6, "batch_size": 700, "device": "cpu", "monitor": "accuracy"},
    "optim": {"scheduler": "constant"},
}
Scores = Sequence[tuple[float, float]]


@pytest.mark.parametrize(
    ("new", "best", "min_delta", "expected"),
    [
        ((0.5, 1.0), None, 0.0, True),
        ((0.6, 2.0), (0.5, 1.0), 0.0, True),
        ((0.5, 0.9), (0.5, 1.0), 0.0, True),  # a tie with a lower loss
        ((0.5, 1.0), (0.5, 1.0), 0.0, False),
        ((0.4, 0.1), (0.5, 1.0), 0.0, False),
        ((0.5, 0.9), (0.5, 1.0), 0.1, False),  # more of the metric was asked for
        ((0.55, 0.9), (0.5, 1.0), 0.1, False),
        ((0.7, 2.0), (0.5, 1.0), 0.1, True),
        ((NAN, 1.0), None, 0.0, False),
        ((0.9, NAN), None, 0.0, False),  # argmax of NaN is a class too
        ((0.9, INF), (0.5, 1.0), 0.0, False),
        ((0.1, 9.0), (NAN, NAN), 0.0, True),  # the best model of an earlier version
    ],
)
def test_one_rule_decides_what_is_better(
    new: tuple[float, float], best: tuple[float, float] | None, min_delta: float, expected: bool
) -> None:
    former = None if best is None else Score(*best)
    assert Score(*new).beats(former, "accuracy", min_delta) is expected


def test_the_plateau_counts_no_epoch_of_the_warm_up() -> None:
    config = OptimConfig(scheduler="plateau", plateau_patience=0)
    state = Plateau().after(0.5, direction=1, config=config, min_delta=0.0)
    assert state.after(0.4, direction=1, config=config, min_delta=0.0, counts=False) == state
    assert state.after(0.4, direction=1, config=config, min_delta=0.0).factor < 1


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scores], None]:
    """Replace what the validation of each epoch gives by (accuracy, loss)."""

    def script(scores: Scores) -> None:
        real, rest = validation.evaluate, iter(scores)

        def evaluate(*args: Any, **kwargs: Any) -> Any:
            accuracy, loss = next(rest)
            result = real(*args, **kwargs)
            return replace(result, metrics={**result.metrics, "accuracy": accuracy, "loss": loss})

        monkeypatch.setattr(validation, "evaluate", evaluate)

    return script


def train(root: Path, events: list[Event] | None = None, **changes: Any) -> training.TrainResult:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))
    prepared = prepare_run(plan)
    emit = [].append if events is None else events.append
    return training.train(prepared, training.new_run(prepared, root, "a"), emit, state=None)


def test_a_tie_with_a_lower_loss_is_best_and_resets_patience(
    tmp_path: Path, scripted: Callable[[Scores], None]
) -> None:
    scripted([(0.5, 1.0), (0.5, 0.9), (0.5, 0.8), (0.5, 0.7), (0.5, 0.75), (0.5, 0.72)])
    events: list[Event] = []
    progress = train(tmp_path, events, fit={"patience": 2}).fit.progress
    improved = [event.improved for event in events if isinstance(event, EpochDone)]
    assert improved == [True, True, True, True, False, False]
    assert (progress.epoch, progress.best_epoch, progress.stopped_early) == (6, 4, False)
    assert progress.epochs_without_improvement == 2


def test_patience_counts_no_epoch_of_the_warm_up(
    tmp_path: Path, scripted: Callable[[Scores], None]
) -> None:
    # 10 epochs of onecycle: the rate rises in the first three.
    scripted([(0.5, 1.0)] + [(0.4, 1.1)] * 9)
    changes: dict[str, Any] = {"optim": {"scheduler": "onecycle"}}
    progress = train(tmp_path, fit={"epochs": 10, "patience": 2}, **changes).fit.progress
    assert progress.stopped_early
    assert progress.epoch == 4  # epochs 3 and 4 end after the warm-up


def test_a_state_of_an_earlier_version_has_the_loss_of_its_best_epoch() -> None:
    values = Progress(best=0.5, best_loss=0.25, patience_best=0.5).to_dict()
    del values["patience_loss"]
    assert Progress.from_dict(values).patience_loss == 0.25


def test_a_model_that_answers_nan_is_never_best(
    tmp_path: Path, scripted: Callable[[Scores], None]
) -> None:
    scripted([(0.9, NAN), (0.3, 1.0), (0.95, INF), (0.4, 0.9), (NAN, NAN), (0.2, 1.1)])
    events: list[Event] = []
    result = train(tmp_path, events, fit={"keep_best": 3})
    progress = result.fit.progress
    assert (progress.best_epoch, progress.best, progress.best_loss) == (4, 0.4, 0.9)
    assert [epoch for _, _, epoch in progress.best_epochs] == [4, 2, 6]
    assert card_of(result.run.best).metrics["val"]["loss"] == 0.9
    warnings = [event.message for event in events if isinstance(event, Warned)]
    assert "val loss is nan after epoch 1: this model is not kept" in warnings
    assert sum("is not kept" in message for message in warnings) == 3


def test_a_run_without_any_finite_validation_has_diverged_and_no_best_model(
    tmp_path: Path, scripted: Callable[[Scores], None]
) -> None:
    scripted([(0.9, NAN)] * 6)
    with pytest.raises(Diverged, match="val loss was not finite after any epoch") as caught:
        train(tmp_path)
    assert "no model was saved" in (caught.value.hint or "")
    run = RunFolder(tmp_path / "a")
    assert not run.best.exists()
    assert run.read_record()["status"] == "failed"


def test_a_metric_that_is_undefined_on_the_split_is_named_in_the_first_epoch(
    tmp_path: Path, scripted: Callable[[Scores], None]
) -> None:
    scripted([(NAN, 0.5)])
    with pytest.raises(DlcliError, match="val accuracy is nan after epoch 1") as caught:
        train(tmp_path)
    assert "--monitor loss" in (caught.value.hint or "")


def test_a_huge_rate_ends_as_diverged_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["-m", "mlp", "-d", "digits", "--device", "cpu", "-b", "500", "--name", "a", "-q"]
    rate = ["--optimizer", "sgd", "--lr", "1e30", "--scheduler", "constant"]
    for epochs in ("1", "3"):
        assert main(["train", *options, *rate, "-e", epochs, "--name", f"of-{epochs}"]) == 1
        assert "training has diverged" in capsys.readouterr().err
        assert not Path(f"runs/of-{epochs}/best.safetensors").exists()
        assert json.loads(Path(f"runs/of-{epochs}/run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("average", [{"ema": 0.9}, {"swa": 0.0}])
def test_an_average_that_is_not_finite_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: dict[str, float]
) -> None:
    class Overflown(build_job.WeightAverage):
        def update(self, module: torch.nn.Module) -> None:
            super().update(module)
            next(iter(self.tensors().values())).fill_(NAN)

    monkeypatch.setattr(build_job, "WeightAverage", Overflown)
    with pytest.raises(Diverged, match=f"in the average {next(iter(average))} are not finite"):
        train(tmp_path, fit={**average, "epochs": 3})


def test_a_model_of_an_earlier_version_whose_loss_is_nan_is_still_read(tmp_path: Path) -> None:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE)))
    module, *_ = plan.build()
    card = make_card(plan, module, metrics={"val": {"loss": NAN}}, epoch=1)
    save_model(tmp_path / "old.safetensors", module, card)
    assert math.isnan(card_of(tmp_path / "old.safetensors").metrics["val"]["loss"])
    open_checkpoint(recognize(tmp_path / "old.safetensors"), Runtime("cpu"))


def test_a_run_that_ended_in_nan_is_resumed_with_its_best_finite_model(
    tmp_path: Path, scripted: Callable[[Scores], None]
) -> None:
    scripted([(0.3, 1.0), (0.9, NAN), (0.9, NAN), (0.2, 2.0), (0.1, 3.0), (0.1, 3.0)])
    run = train(tmp_path).run
    state, _ = load_newest(run.state)
    assert state is not None
    assert (state.progress.best_epoch, state.progress.best) == (1, 0.3)
