"""Names reach neither the terminal as control characters nor a spreadsheet as formulas."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
import tiny

from dlcli.cli import main
from dlcli.ui import console
from dlcli.ui.predict_writers import WRITERS, Head, destination
from dlcli.ui.text import csv_cell

HOSTILE = "\x1b]0;title\x07\x1b[2Jred\u202e\x9b31m"


@pytest.mark.parametrize("stream", [console.stdout, console.stderr])
def test_no_text_reaches_a_console_as_a_control_character(
    stream: object, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.table import Table
    from rich.text import Text

    assert callable(stream)
    screen = stream()
    table = Table(HOSTILE)
    table.add_row(Text(HOSTILE), style="bold")
    for renderable in (HOSTILE, Text(f"a\n{HOSTILE}"), table):
        screen.print(renderable)
        screen.print(renderable, style="red", soft_wrap=True)
    printed = "".join(capsys.readouterr())
    assert "red" in printed
    assert "\\x1b" in printed
    assert printed.replace("\n", "").isprintable()


def test_titles_and_keys_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tiny.artifact(tmp_path, "cnn")
    named = source.card.model.model_copy(update={"name": HOSTILE})
    path = tmp_path / "m.safetensors"
    from dlcli.formats.checkpoint import save_model

    save_model(path, source.module(), source.card.model_copy(update={"model": named}))
    assert main(["info", str(path)]) == 0
    table = tmp_path / f"{HOSTILE}.csv"
    table.write_text("x,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)))
    assert main(["data", str(table)]) == 0
    printed = "".join(capsys.readouterr())
    assert "\\x1b[2Jred" in printed
    assert printed.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *[(f"{sign}cmd", f"'{sign}cmd") for sign in "=+-@\t\r"],
        *[(text, text) for text in ("cat", "a=b", "-1.5", "+3", "1e-4", "-inf", "")],
    ],
)
def test_a_formula_is_a_text_in_a_csv_file(text: str, cell: str) -> None:
    assert csv_cell(text) == cell


def test_predictions_as_csv_hold_no_formulas() -> None:
    out = io.StringIO()
    spec = tiny.TaskSpec(kind="regression", input=tiny.table(), targets=(tiny.TargetNumber(name="y"),))
    head = Head({}, spec, ["=1+1"], 0, [])
    WRITERS["csv"]([{"input": "=1+1", "value": -2.5}], out, head)
    assert list(csv.reader(io.StringIO(out.getvalue())))[1] == ["'=1+1", "-2.5"]


def test_a_terminal_gets_escaped_predictions_and_a_pipe_raw_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for is_terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda value=is_terminal: value)
        monkeypatch.setattr(sys, "stdout", stream)
        with destination(None) as file:
            file.write(f"{HOSTILE}\n")
        assert ("\x1b" in stream.getvalue()) is not is_terminal
