"""What a shell completes: values, without importing what takes long."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dlcli.commands import completing


def complete(line: str, folder: Path, *, light: bool) -> list[str]:
    """Return what bash would be given for the last word of a line."""
    words = line.split(" ")
    environment = {
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_DLCLI_COMPLETE": "complete_bash",
    }
    code = (
        "import sys, os; sys.argv = ['dlcli']; from dlcli.cli import main\n"
        "try: main()\n"
        "finally: print(*{'torch', 'numpy', 'pydantic', 'yaml', 'rich'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"PYTHONPATH": ":".join(sys.path), **environment},
    )
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[-1] == "" or not light, f"{lines[-1]} is imported"
    return lines[:-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("completion")
    for name in ("runs/cnn-digits", "elsewhere/mlp-houses"):
        (root / name).mkdir(parents=True)
        (root / name / "run.json").write_text("{}")
    return root


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("dlcli train --model resnet1", ["resnet101", "resnet152", "resnet18"]),
        ("dlcli eval ", ["cnn-digits"]),
        ("dlcli export --runs-dir elsewhere ", ["mlp-houses"]),
        ("dlcli train --lr 1 --resume ", ["last", "cnn-digits"]),
        ("dlcli train --model cnn --data dig", ["digits"]),
        ("dlcli runs --sort accu", ["accuracy"]),
        ("dlcli eval --min accu", ["accuracy="]),
        ("dlcli repo", ["report"]),
        ("dlcli --ver", ["--version"]),
        ("dlcli eval --wor", ["--worst"]),
        ("dlcli eval --split te", ["test"]),
    ],
)
def test_values_come_from_names_alone(line: str, values: list[str], folder: Path) -> None:
    assert complete(line, folder, light=not re.search("--(ver|wor|split)", line)) == values


REGISTERED = """
import json
from dlcli.data.sets.named import DATASETS
from dlcli.evaluation.metrics import directions
from dlcli.zoo.base import MODELS
names = lambda registry: [name for name, _ in registry.entries()]
print(json.dumps([names(DATASETS), list(directions()), [entry.name for _, entry in MODELS.entries()]]))
"""


def test_names_are_those_that_are_registered() -> None:
    # In a process of its own: other tests register more.
    done = subprocess.run([sys.executable, "-c", REGISTERED], capture_output=True, text=True, check=True)
    data, metrics, models = json.loads(done.stdout)
    assert completing.data_names([]) == sorted(data)
    assert completing.metric_names([]) == sorted(metrics)
    assert set(completing.model_names([])) >= set(models)


def test_runs_are_those_of_the_folder_that_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert completing.run_names(["eval", "--runs-dir", "elsewhere"]) == ["mlp-houses"]
