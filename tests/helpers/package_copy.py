"""A copy of the package in a folder, to add files to and run commands with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dlcli

# Run each command line of argv[1], its output in files 0.out, 0.err, 1.out ... of the folder argv[2].
_RUN = """
import json, os, sys
from dlcli.cli import main

codes = []
for number, args in enumerate(json.loads(sys.argv[1])):
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        stream.flush()
        with open(os.path.join(sys.argv[2], f"{number}.{name}"), "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    codes.append(main(args))
sys.stdout.flush()
sys.stderr.flush()
with open(os.path.join(sys.argv[2], "codes.json"), "w") as file:
    json.dump(codes, file)
"""


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


class PackageCopy:
    """A copy of dlcli below ``root``, with ``files`` (path below ``dlcli`` to text) added to it.

    Raises: FileExistsError where the package has such a file already: an extension edits none.
    """

    def __init__(self, root: Path, files: Mapping[str, str]) -> None:
        self.root = root
        self.package = root / "dlcli"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(dlcli.__file__).parent, self.package, ignore=ignored)
        for name, text in files.items():
            path = self.package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)

    def run(self, *commands: Sequence[str], cwd: Path) -> list[Result]:
        """Run command lines one after the other, in one process of its own, with the copy."""
        logs = self.root / "logs"
        logs.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", _RUN, json.dumps(commands), str(logs)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(self.root), "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=500,
        )
        codes = logs / "codes.json"
        assert codes.exists(), done.stderr + "".join(
            path.read_text() for path in sorted(logs.glob("*.err"))
        )
        results = [
            Result(code, (logs / f"{i}.out").read_text(), (logs / f"{i}.err").read_text())
            for i, code in enumerate(json.loads(codes.read_text()))
        ]
        shutil.rmtree(logs)
        return results

    def python(self, code: str) -> str:
        """The output of Python code that imports the copy."""
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
