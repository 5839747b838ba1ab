"""The examples at the end of each command's ``--help``, run as they stand but for size."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import webbrowser
from pathlib import Path

import pytest
from document_commands import BOUNDS, smaller, write_data
from fake_machines import facts_of, good_steps

from dlcli import cli
from dlcli.cli import main, split_help
from dlcli.machine import facts as machine_facts

# After `smaller`: what costs time and is tested elsewhere. `train` comes first: others use its runs.
SMALLER = {
    r"dlcli (train .*--epochs 1 .*) --resume": r"dlcli train --resume",
    r"--epochs 20": "",
    r"dlcli (export|quantize|prune|ship)": r"dlcli \1 --no-latency",
    r"--batch-sizes 1 (.*)--batch-sizes 1,32": r"--batch-sizes 1 \1",
    r"dlcli serve(.*?)( --port \d+)?$": r"dlcli serve\1 --port 0",
    r"best.onnx": "best.safetensors",
    r"dlcli benchmark": "dlcli benchmark --rounds 2 --seconds 0.01 --no-accuracy",
    r"dlcli tune --model": "dlcli tune --epochs 1 --batch-size 300 --model",
    r"--trials 2 --epochs 1": "--trials 1",
    r"--sampler": "--trials 1 --sampler",
    r"--trials 40": "--trials 2",
}
LONG = (
    "export",
    "quantize",
    "prune",
    "benchmark",
    "ship",
    "tune",
)  # in processes of their own, or they train


def examples(command: str) -> list[str]:
    function = importlib.import_module(f"dlcli.commands.{command}").command
    return split_help(inspect.getdoc(function) or "")[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and the runs of the examples of `train`."""
    root = tmp_path_factory.mktemp("examples")
    write_data(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run("train")
    return root


def run(command: str) -> None:
    for line in examples(command):
        small = re.sub("resnet18", "cnn", smaller(line))
        for pattern, text in SMALLER.items():
            small = re.sub(pattern, text, small)
        code = main(shlex.split(small)[1:])
        assert code in ((0, 3) if any(bound in line for bound in BOUNDS) else (0,)), small


@pytest.mark.parametrize("command", cli.summaries())
def test_the_options_of_the_examples_exist(command: str) -> None:
    for line in examples(command):
        cli._load(command).make_context(command, shlex.split(line)[2:])  # else a usage error of typer's


@pytest.mark.parametrize(
    "command", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in cli.summaries()]
)
def test_the_examples_of_help_run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(webbrowser, "open", lambda page: True)
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    facts = facts_of(good_steps())
    monkeypatch.setattr(machine_facts, "probe_facts", lambda **options: facts)
    if command != "train":
        run(command)
    assert len(examples(command)) == 3
    assert (folder / "runs/cnn-digits/best.safetensors").is_file()
