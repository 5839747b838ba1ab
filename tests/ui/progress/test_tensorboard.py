from __future__ import annotations

import io
import math
import random
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pytest
import torch
from full_disk import full_disk
from PIL import Image
from torch import nn

from dlcli.errors import DlcliError
from dlcli.events import (
    Emit,
    Event,
    Examples,
    Histograms,
    LiveEvent,
    ModelReady,
    RunFinished,
    StepDone,
    Tee,
    Warned,
)
from dlcli.files import CannotWrite
from dlcli.ui.progress.tensorboard import TensorBoard, draw_examples, hyperparameters

SETTINGS: dict[str, Any] = {
    "data.data": "~/imgs", "data.workers": 4, "model.name": "resnet18", "model.weights": None,
    "model.args": {"head": "mlp", "widths": [16, 32]}, "optim.lr": "auto", "optim.optimizer": "adamw",
    "optim.betas": None, "optim.milestones": (0.5, 0.75), "fit.epochs": 3, "fit.batch_size": "auto",
    "fit.device": "cpu", "fit.tensorboard": True, "augment.level": "light", "launch.devices": "1",
}  # fmt: skip
STARTED = replace(fake_run.STARTED, settings=SETTINGS)


def read(folder: Path) -> Any:
    """The files as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(e.step, round(e.value, 4)) for e in read(folder).Scalars(tag)]


def numpy_state() -> str:
    return repr(np.random.get_state())


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 2)
    )


def test_scalars_are_at_their_steps(tmp_path: Path) -> None:
    with TensorBoard(tmp_path) as board:
        for event in fake_run.run():
            board(replace(event, grad_norm=1.5) if isinstance(event, StepDone) else event)
    assert points(tmp_path, "train/loss") == [(s, 1.2345) for s in range(1, 13)]  # none twice
    assert points(tmp_path, "val/accuracy") == [(4, 0.61), (8, 0.62), (12, 0.63)]
    assert points(tmp_path, "val/f1_macro")[0] == (4, 0.6333)
    for tag in ("train/accuracy", "lr", "samples_per_s", "memory_mib", "grad_norm"):
        assert len(points(tmp_path, tag)) == 12, tag
    assert points(tmp_path, "best/accuracy") == [(12, 0.63)]
    assert points(tmp_path, "best/loss") == [(12, 1.2222)]


def test_an_epoch_without_a_logged_step_has_training_figures_too(tmp_path: Path) -> None:
    with TensorBoard(tmp_path) as board:
        board(STARTED)
        board(replace(fake_run.epoch_done(1), accuracy=None))
    assert points(tmp_path, "train/loss") == [(4, 1.1111)]
    assert "train/accuracy" not in read(tmp_path).Tags()["scalars"]


def test_figures_that_are_no_numbers_are_kept_and_missing_ones_left_out(tmp_path: Path) -> None:
    with TensorBoard(tmp_path) as board:
        board(STARTED)
        board(replace(fake_run.step_done(1), loss=math.nan, memory_mib=None, accuracy=None))
        nan = {"loss": math.inf, "accuracy": math.nan}
        board(replace(fake_run.epoch_done(1), accuracy=None, val=nan))
        board(RunFinished("r", 4, 1, "accuracy", math.nan, 1, 2.0))
    tags = read(tmp_path).Tags()["scalars"]
    assert math.isnan(read(tmp_path).Scalars("train/loss")[0].value)
    assert math.isinf(read(tmp_path).Scalars("val/loss")[0].value)
    assert not {"memory_mib", "train/accuracy", "grad_norm", "skipped_steps"} & set(tags)


@pytest.mark.parametrize("torn", [False, True])
def test_a_resumed_run_has_no_step_twice(tmp_path: Path, torn: bool) -> None:
    """Killed after step 7, resumed from the state of step 4, which is the end of an epoch."""
    first = TensorBoard(tmp_path)
    first(STARTED)
    for step in range(1, 8):
        first(fake_run.step_done(step))
        if step == 4:
            first(fake_run.epoch_done(1))
    first.close()
    if torn:
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:-9])
    with TensorBoard(tmp_path) as second:
        second(replace(STARTED, resumed_step=4))
        for step in range(5, 9):
            second(replace(fake_run.step_done(step), loss=0.5))
        second(fake_run.epoch_done(2))
    assert points(tmp_path, "train/loss") == [(s, 1.2345 if s < 5 else 0.5) for s in range(1, 9)]
    assert points(tmp_path, "val/loss") == [(4, 1.2222), (8, 1.2222)]


def test_a_run_that_starts_again_forgets_what_it_wrote(tmp_path: Path) -> None:
    for loss in (1.0, 2.0):
        with TensorBoard(tmp_path) as board:
            board(STARTED)
            board(replace(fake_run.step_done(1), loss=loss))
    assert points(tmp_path, "train/loss") == [(1, 2.0)]


def test_the_settings_stand_next_to_the_best_metrics(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    with TensorBoard(tmp_path) as board:
        board(STARTED)
        board(fake_run.epoch_done(1))
        board(RunFinished("r", 4, 1, "accuracy", 0.61, 1, 2.0))
    contents = read(tmp_path).PluginTagToContent("hparams")
    session = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    assert session.hparams["optim.lr"].number_value == 1e-3  # what "auto" became
    assert session.hparams["optim.optimizer"].string_value == "adamw"
    experiment = metadata.parse_experiment_plugin_data(contents[metadata.EXPERIMENT_TAG])
    names = {info.name.tag for info in experiment.metric_infos}
    assert {"best/accuracy", "best/loss"} <= names <= set(read(tmp_path).Tags()["scalars"])


def test_the_settings_that_tell_runs_apart() -> None:
    assert hyperparameters(STARTED) == {
        "data.data": fake_run.STARTED.data, "model.name": "resnet18", "model.args.head": "mlp",
        "model.args.widths": "[16, 32]", "optim.lr": 1e-3, "optim.optimizer": "adamw",
        "optim.milestones": "(0.5, 0.75)", "fit.epochs": 3, "fit.batch_size": 64,
        "augment.level": "light",
    }  # fmt: skip


def test_a_graph_changes_nothing_of_the_model(tmp_path: Path) -> None:
    module = net()
    module[1].eval()  # a frozen batch norm
    before = {k: v.clone() for k, v in module.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), numpy_state()
    with TensorBoard(tmp_path) as board:
        board(STARTED)
        board(ModelReady(module, (torch.randn(5, 3, 8, 8, generator=torch.Generator()),)))
    names = {node.name for node in read(tmp_path).Graph().node}
    assert any("BatchNorm2d" in name for name in names)
    assert [part.training for part in module] == [True, False, True, True, True, True]
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), numpy_state()) == states[1:]


def test_a_graph_is_drawn_once_a_folder(tmp_path: Path) -> None:
    class Counted(nn.Linear):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Counted.calls += 1
            return super().forward(x)

    ready = ModelReady(Counted(2, 2), (torch.zeros(3, 2),))
    with TensorBoard(tmp_path) as board:
        board(STARTED)
        board(ready)
    drawn = Counted.calls
    with TensorBoard(tmp_path) as board:
        board(replace(STARTED, resumed_step=4))
        board(ready)
    assert Counted.calls == drawn > 0
    assert read(tmp_path).Tags()["graph"]


@pytest.mark.parametrize("error", [RuntimeError, KeyError, NotImplementedError])
def test_a_model_without_a_graph_costs_a_warning(
    tmp_path: Path, error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(1)
            raise error("no way\nthrough")

    seen: list[Event] = []
    module, state = Odd().train(), torch.get_rng_state()
    with TensorBoard(tmp_path, emit=seen.append) as board:
        board(STARTED)
        board(ModelReady(module, (torch.zeros(2, 2),)))
        board(fake_run.step_done(1))
    (warned,) = seen
    assert isinstance(warned, Warned)
    assert warned.message.startswith("TensorBoard shows no graph of this model: ")
    assert "no way" in warned.message
    assert "\n" not in warned.message
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")  # torch prints there by itself
    assert points(tmp_path, "train/loss") == [(1, 1.2345)]


def test_histograms_keep_their_counts(tmp_path: Path) -> None:
    counts, edges = np.histogram([0.1, 0.2, 0.2, 0.9], bins=4, range=(0, 1))
    odd = (torch.tensor([1.0, 0.0]), torch.tensor([math.nan] * 3))
    with TensorBoard(tmp_path) as board:
        board(STARTED)
        board(Histograms(4, {"fc.weight": (counts, edges)}, {"fc.weight": odd, "empty": ([0], [0, 1])}))
    found = read(tmp_path)
    assert found.Tags()["histograms"] == ["weights/fc.weight"]
    (event,) = found.Histograms("weights/fc.weight")
    value = event.histogram_value
    assert (event.step, value.num, value.min, value.max) == (4, 4, 0.0, 1.0)
    assert list(value.bucket) == [3, 0, 0, 1]
    assert list(value.bucket_limit) == [0.25, 0.5, 0.75, 1.0]
    assert value.sum == pytest.approx(3 * 0.125 + 0.875)


def test_a_full_disk_is_one_error_without_the_traceback_of_a_thread(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 30, 30, 3), dtype=np.uint8)
    hook = threading.excepthook

    def write() -> None:
        with TensorBoard(tmp_path) as board:
            board(STARTED)
            with full_disk(2000):
                for step in range(30):
                    board(Examples(step, images, ("a",) * 40, ("b",) * 40))

    with pytest.raises(CannotWrite, match="too large"):
        write()
    assert threading.excepthook is hook
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_predictions(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, channels), dtype=np.uint8)
    with TensorBoard(tmp_path) as board:
        board(STARTED)
        for step in (4, 8):
            board(Examples(step, images, ("a", "b", "c"), ("a", "x", "c")))
    found = read(tmp_path).Images("val/examples")
    assert [event.step for event in found] == [4, 8]
    picture = Image.open(io.BytesIO(found[0].encoded_image_string))
    assert (picture.width, picture.height) == (450, 190)


def red(picture: np.ndarray[Any, Any]) -> int:
    rgb = picture.astype(int)
    return int(((rgb[..., 0] > 120) & (rgb[..., 1] < 80) & (rgb[..., 2] < 80)).sum())


def test_wrong_predictions_are_marked() -> None:
    images = np.zeros((10, 6, 9, 1), np.uint8)
    names = ("cost in $ and $", "<b>[red]x[/]", "a\nb", "很", *"cdefgh")
    right = draw_examples(images, names, names)
    wrong = draw_examples(images, names, (*names[:-1], "other"))
    assert right.dtype == np.uint8
    assert right.shape == wrong.shape == (380, 1200, 3)
    assert red(right) == 0 < red(wrong)


def test_without_the_package_it_says_so_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(DlcliError, match="tensorboard") as caught:
        TensorBoard(tmp_path)
    assert caught.value.hint == 'pip install "dlcli[tensorboard]"'
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DlcliError, match="cannot write"):
        TensorBoard(tmp_path / "file" / "board")(STARTED)


def test_a_sink_is_a_function_of_one_event() -> None:
    """All that MLflow or Weights & Biases would need: no base class, no registration."""
    figures: list[tuple[str, float, int]] = []

    def other_tracker(event: Event) -> None:
        said = event.to_dict()
        if said["event"] == "EpochDone":
            figures.extend((f"val/{k}", v, said["step"]) for k, v in said["val"].items())

    sink: Emit = Tee((other_tracker, lambda event: None))
    for event in fake_run.run():
        sink(event)
    assert ("val/accuracy", 0.63, 12) in figures
    assert len(figures) == 12


def test_kinds_of_events_that_it_does_not_know_are_passed_over(tmp_path: Path) -> None:
    class Later(LiveEvent):
        pass

    with TensorBoard(tmp_path) as board:
        for event in (Later(), Warned("x")):
            board(event)
    assert list(tmp_path.iterdir()) == []
