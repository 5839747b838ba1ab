"""Mistakes in a user's files that the command line meets: one sentence each, and no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlcli.cli import main

TRAIN = ["train", "--device", "cpu", "-q", "-e", "1", "-b", "500", "--name", "r"]
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.fc(x.flatten(1))
"""
ROWS = """
import torch

class Rows:
    def __len__(self):
        return 30

    def __getitem__(self, i):
        return torch.randn(3), i % 2
"""
MODEL, DATA, LOSS = (
    "-m own.py:Net -d digits",
    "-m mlp -d own.py:Rows",
    "-m linear -d digits --loss own.py:loss",
)
# The file, the options, the exit code, and what is said.
MISTAKES: dict[str, tuple[str, str, int, str]] = {
    "exit at import": (
        "import sys\nsys.exit(3)\n",
        MODEL, 1, "own.py cannot be run: SystemExit: 3, in own.py line 2",
    ),
    "arguments at import": (
        "import argparse\nargparse.ArgumentParser().parse_args(['--epochs', '3'])\n",
        MODEL, 1, "own.py cannot be run: SystemExit: 2, in own.py line 2",
    ),
    "exit in a sample": (
        ROWS.replace("return torch", "raise SystemExit(4); torch"),
        DATA, 1, "SystemExit: 4, in own.py",
    ),
    "exit in a loss": (
        "def loss(outputs, targets):\n    exit(5)\n",
        LOSS, 1, "SystemExit: 5, in own.py line 2",
    ),
    "exit in training": (
        NET.replace("return self", "if self.training: raise SystemExit(6)\n        return self"),
        MODEL, 1, "your code failed: SystemExit: 6, in own.py line",
    ),
    "an error in training": (
        NET.replace("return self", "if self.training: x.nope()\n        return self"),
        MODEL, 1, "in own.py line 11: if self.training: x.nope()",
    ),
    "no class of a file": (NET, "-m own.py -d digits", 2, "--model own.py names no class of the file"),
    "no data set of a file": (ROWS, "-m mlp -d own.py", 1, "your own code is --data own.py:NAME"),
    "squeezed outputs": (
        NET.replace("flatten(1))", "flatten(1)).squeeze()"),
        MODEL, 1, "squeeze() drops the batch",
    ),
    "a text without lengths": (
        NET + "def texts(): return [('a b', 'x'), ('c d e', 'y')] * 20\n",
        "-m own.py:Net -d own.py:texts", 1, "def forward(self, tokens, lengths)",
    ),
    "a forward that never ends": (
        NET.replace("return self.fc", "return self.forward"), MODEL, 1, "RecursionError",
    ),
    "a model without parameters": (
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def forward(self, x): return x.flatten(1)[:, :10]",
        MODEL, 2, "optimizer got an empty parameter list",
    ),
    "an empty file": ("", MODEL, 2, "own.py has no class or function 'Net'"),
    "bytes": ("\0", MODEL, 1, "own.py cannot be run: "),  # SyntaxError, ValueError before 3.11.4
    "a metric that is no number": (
        "def half(outputs, targets): return float('nan')\nhalf.higher_is_better = True\n",
        "-m linear -d digits --metric own.py:half --monitor half", 1, "cannot select the best epoch",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("code", "options", "exit_code", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(
    code: str,
    options: str,
    exit_code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(code)
    assert main([*TRAIN, *options.split()]) == exit_code
    error = " ".join(capsys.readouterr().err.split())
    assert sentence in error
    assert error.count("error: ") <= 1 + ("argparse" in code)  # argparse prints its own
    assert "Traceback" not in error
    assert "bug in dlcli" not in error


def test_what_a_users_file_prints_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "print('imported')" + NET.replace("return self", "print(x.shape)\n        return self")
    )
    assert main([*TRAIN, *MODEL.split(), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "finished"
    assert "imported" in err
    assert "torch.Size" in err
