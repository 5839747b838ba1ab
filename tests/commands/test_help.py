"""`--help` of every command: short, complete in `--help-all`, and readable at 80 columns."""

import importlib
import inspect
from typing import Literal, get_args, get_origin

import pytest

from dlcli import cli
from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.settings import fields_of

COMMANDS = list(cli.summaries())
EXAMPLES = 6  # lines of a help: three commands, their heading, blank ones around


def help_of(
    command: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    assert main([command, flag]) == 0
    return capsys.readouterr().out.splitlines()


def choices_and_metavars(command: str) -> list[tuple[str, str]]:
    """(long flag, what the help must show of its value on one line) of every option."""
    rows: list[tuple[str, str]] = []
    function = importlib.import_module(f"dlcli.commands.{command}").command
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        for meta in getattr(parameter.annotation, "__metadata__", ()):
            flags = (getattr(meta, "default", None), *(getattr(meta, "param_decls", None) or ()))
            long = [flag for flag in flags if isinstance(flag, str) and flag.startswith("--")]
            if long:
                kind = get_args(parameter.annotation)[0]
                literals = [k for k in (kind, *get_args(kind)) if get_origin(k) is Literal]
                choices = "|".join(str(name) for k in literals for name in get_args(k))
                rows.append((long[0].split("/")[0], meta.metavar or choices))
    return rows


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_listed_and_no_metavar_is_cut(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = choices_and_metavars(command)
    has_more = any(flag == "--help-all" for flag, _ in rows)
    lines = help_of(command, "--help-all" if has_more else "--help", monkeypatch, capsys)
    for flag, metavar in rows:
        assert any(f" {flag} " in line and metavar in line for line in lines), (flag, metavar)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_help_fits_80_lines_and_its_examples(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(help_of(command, "--help", monkeypatch, capsys)) <= 80 + EXAMPLES


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_three_examples_of_the_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = help_of(command, "--help", monkeypatch, capsys)[-EXAMPLES:]
    assert [lines[0], lines[1].strip(), lines[-1]] == ["", "Examples", ""], (
        "see another command's docstring"
    )
    assert all(line.startswith(f"   dlcli {command}") and len(line) <= 80 for line in lines[2:-1]), lines


def test_the_help_of_train_is_short_and_its_long_help_is_complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = help_of("train", "--help", monkeypatch, capsys)
    assert len(short) <= 90 + EXAMPLES
    every = "\n".join(help_of("train", "--help-all", monkeypatch, capsys))
    extras = {key: field.json_schema_extra for key, field in fields_of(TrainConfig).items()}
    flags = {
        extra["flags"][0].split("/")[0]: extra["advanced"] for extra in extras.values() if extra["flags"]
    }
    for flag, advanced in flags.items():
        assert f" {flag} " in every
        assert (f" {flag} " in "\n".join(short)) is not advanced
    for group in TrainConfig.model_fields:
        assert f"({group})" in every


def test_an_option_that_help_does_not_list_still_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--label-smoothing", "7"]) == 2
    assert "--label-smoothing" in capsys.readouterr().err
