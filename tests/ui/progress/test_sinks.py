from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fake_run
import pytest
from rich.console import Console

from dlcli.events import EvalProgress, Event, Warned
from dlcli.ui import console as consoles
from dlcli.ui.progress.live import LiveView
from dlcli.ui.progress.plain import PlainLines
from dlcli.ui.progress.sinks import progress_sink

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def console(width: int, **kwargs: object) -> Console:
    settings: dict[str, object] = {"markup": False, "emoji": False, "highlight": False, **kwargs}
    return Console(file=io.StringIO(), width=width, **settings)  # type: ignore[arg-type]


def written(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def always() -> Callable[[], float]:
    """A clock on which a minute passes at every look, so that every event is due."""
    now = [0.0]

    def look() -> float:
        now[0] += 60
        return now[0]

    return look


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize("width", [80, 140])
def test_plain_lines_fit_and_have_no_escapes(width: int) -> None:
    screen = console(width)
    sink = PlainLines(screen, clock=always())
    for event in fake_run.run():
        sink(event)
    text = written(screen)
    assert "\x1b" not in text
    assert "\r" not in text
    assert max(map(len, text.splitlines())) <= width
    for figure in (
        "11,181,642",
        "5,130",
        "train 3,068",
        "3 x 224 x 224",
        "adamw",
        "onecycle",
        "resnet18",
    ):
        assert figure in text
    for line in ("epoch 1/3  loss 1.1111  acc 0.6111  val_loss 1.2222  val_acc 0.6100", "step  3/12"):
        assert f"\n{line}" in text


def test_wide_plain_lines_hold_every_figure() -> None:
    screen = console(200)
    sink = PlainLines(screen, clock=always())
    sink(fake_run.step_done(5))
    sink(fake_run.epoch_done(1))
    step, epoch = written(screen).splitlines()
    assert " ".join(step.split()) == (
        "step 5/12 epoch 2/3 loss 1.2345 acc 0.5432 lr 7.89e-04 samples/s 1234 left 3m05s memory 1.5 GiB"
    )
    assert " ".join(epoch.split()) == (
        "epoch 1/3 loss 1.1111 acc 0.6111 val_loss 1.2222 val_acc 0.6100 val_f1 0.6333"
        " val_top5 0.9444 lr 4.56e-04 samples/s 1180 time 1m05s best"
    )


def test_epoch_lines_are_aligned_and_mark_the_better_ones() -> None:
    screen = console(140)
    sink = PlainLines(screen)
    for epoch in (1, 2, 3):
        sink(fake_run.epoch_done(epoch, improved=epoch != 2))
    lines = written(screen).splitlines()
    assert len({line.index("val_loss") for line in lines}) == 1
    assert [line.endswith("  best") for line in lines] == [True, False, True]


def test_steps_are_printed_at_intervals_only() -> None:
    screen, now = console(140), [0.0]
    sink = PlainLines(screen, every_s=15, clock=lambda: now[0])
    for second in range(0, 61):
        now[0] = float(second)
        sink(fake_run.step_done(1))
    assert len(written(screen).splitlines()) == 4


def test_a_monitored_metric_is_never_dropped() -> None:
    screen = console(60)
    PlainLines(screen)(fake_run.epoch_done(1, monitor="f1_macro"))
    assert "val_f1 0.6333" in written(screen)


def test_figures_that_are_no_numbers_are_shown() -> None:
    screen = console(140)
    bad = replace(fake_run.epoch_done(1), loss=float("nan"), val={"loss": float("inf"), "accuracy": 0.1})
    PlainLines(screen)(bad)
    assert "loss    nan" in written(screen)
    assert "val_loss    inf" in written(screen)


@pytest.mark.parametrize("width", [30, 50, 80, 140])
def test_live_rows_fit(width: int) -> None:
    screen = console(width)
    view = LiveView(screen)
    try:
        for event in fake_run.run():
            if isinstance(event, Warned):  # one line on what is no terminal, however long
                continue
            view(event)
            screen.print(view)  # the bars as they are now
    finally:
        view.close()
    text = written(screen)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    for figure in ("1.2222", "0.6100", "epoch", "best"):
        assert figure in text
    if width >= 80:
        for figure in (
            "1.1111",
            "12/12",
            "128/341",
            "3m05s left",
            "7.89e-04",
            "samples/s 1234",
            "1.5 GiB",
        ):
            assert figure in text
        assert "saved at step 8" in text or width == 80


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("sink_of", [PlainLines, LiveView])
def test_a_task_without_training_accuracy_has_no_such_column(
    sink_of: Callable[[Console], object], width: int
) -> None:
    screen = console(width)
    sink: Any = sink_of(screen)
    started = replace(
        fake_run.STARTED, kind="series", task="forecast", num_classes=0, input_shape=("length", 7),
        notes=("window 96, horizon 96", "a second [b]fact"), monitor="mse", total_steps=12,
    )  # fmt: skip
    val = {"loss": 0.3859, "mse": 0.3861, "mae": 51_234.4, "rmse": 0.6213, "smape": 76.79}
    try:
        sink(started)
        step = replace(fake_run.step_done(1), accuracy=None)
        sink(step)
        if sink_of is LiveView:
            screen.print(sink)
        else:
            assert sink_of is PlainLines
            PlainLines(screen, clock=always())(step)
        sink(replace(fake_run.epoch_done(1), accuracy=None, val=val, monitor="mse"))
    finally:
        if sink_of is LiveView:
            sink.close()
    text = written(screen)
    assert max(map(len, text.splitlines())) <= width
    assert "acc" not in text
    assert "series data, forecast" in text
    assert "class" not in text
    assert "length x 7 (steps, channels)" in text
    assert "window 96, horizon 96" in text
    assert "a second [b]fact" in text
    assert "samples/s" in text
    for figure in ("0.3859", "0.3861", *(["51234"] if width == 140 else [])):
        assert figure in text


def test_the_plan_names_labels_and_classes() -> None:
    for task, said in (("multilabel", "image data, multilabel, 10 labels"),
                       ("classification", "image data, classification, 10 classes")):  # fmt: skip
        screen = console(140)
        PlainLines(screen)(replace(fake_run.STARTED, task=task))
        assert f"task      {said}\n" in written(screen)


def test_live_prints_heads_once_while_columns_stay() -> None:
    screen = console(80)
    view = LiveView(screen)
    for epoch in (1, 2, 3):
        view(fake_run.epoch_done(epoch))
    assert written(screen).count("val_loss") == 1


def test_live_clock_runs_on_between_events() -> None:
    screen, now = console(80), [100.0]
    view = LiveView(screen, clock=lambda: now[0])
    view(fake_run.STARTED)
    view(fake_run.step_done(1, eta_s=30.0))
    now[0] += 12
    screen.print(view)
    view.close()
    assert "1m12s, 18s left" in written(screen)


def test_warnings_print_user_text_as_it_is() -> None:
    for sink_of in (PlainLines, LiveView):
        screen = console(140)
        sink_of(screen)(Warned("class '[red]x[/]' :smile: \x1b[31m\nis empty"))
        assert written(screen) == "warning: class '[red]x[/]' :smile: \\x1b[31m is empty\n"


@pytest.mark.parametrize(("quiet", "as_json"), [(True, False), (False, True)])
def test_quiet_and_json_let_warnings_through_alone(
    quiet: bool, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_sink(quiet, as_json) as emit:
        for event in fake_run.run():
            emit(event)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "warning: a class called [red]x[/] is empty\n"


def test_progress_in_a_pipe_is_plain_and_on_stderr(
    capsys: pytest.CaptureFixture[str], bare_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # colours, but no redrawing
    with progress_sink(False, False) as emit:
        for event in fake_run.run():
            emit(event)
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b[" in err
    assert HIDE_CURSOR not in err
    assert "\r" not in err


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_terminal_is_given_back_after_a_failure(
    error: type[BaseException], bare_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)

    def fail() -> None:
        with progress_sink(False, False) as emit:
            emit(fake_run.STARTED)
            emit(fake_run.step_done(1))
            raise error

    with pytest.raises(error):
        fail()
    assert sys.stderr is screen  # rich had put itself in its place
    assert HIDE_CURSOR in screen.getvalue()
    assert screen.getvalue().rindex(SHOW_CURSOR) > screen.getvalue().rindex(HIDE_CURSOR)


def test_a_dumb_terminal_gets_plain_lines(
    bare_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "dumb")
    with progress_sink(False, False) as emit:
        for event in fake_run.run():
            emit(event)
    assert "\x1b" not in screen.getvalue()
    assert "epoch 1/3" in screen.getvalue()


def test_no_color_takes_every_style_away(
    bare_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    consoles.stdout().print("loud", style="bold red")
    assert "\x1b[" in screen.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    screen.truncate(0)
    consoles.stdout().print("loud", style="bold red")
    assert "\x1b" not in screen.getvalue()


def test_piped_width(bare_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert consoles.stdout().width == consoles.PIPED_WIDTH
    monkeypatch.setenv("COLUMNS", "97")
    assert consoles.stdout().width == 97


def test_evaluation_alone_shows_a_bar() -> None:
    screen, now = console(80), [0.0]
    view = LiveView(screen, clock=lambda: now[0])
    events: list[Event] = [EvalProgress("test", 0, 1000), EvalProgress("test", 250, 1000)]
    for event in events:
        view(event)
        now[0] += 1
    screen.print(view)
    view.close()
    line = written(screen).splitlines()[-1]
    assert "eval test" in line
    assert "250/1,000" in line
    assert "25%" in line
