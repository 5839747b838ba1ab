"""Writing a file in a process of its own: exporters depend on what they exported before, or die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import FORMATS, Artifact, Format, open_artifact
from dlcli.subprocesses import child_command, describe_exit

_SAID_LAST = 500


def write_in_process(
    source: Artifact, path: Path, entry: Format, config: ExportConfig, *, trust: bool
) -> None:
    """``entry.write`` in a fresh process, with the card that ``source`` has here.

    Raises: DlcliError, UsageError as the writer does, and DlcliError when the process dies.
    """
    job = {
        "source": str(source.path),
        "path": str(path),
        "format": entry.name,
        "config": config.model_dump(mode="json"),
        "card": source.card.to_json(),
        "trust": trust,
    }
    done = subprocess.run(
        child_command("dlcli.deploy.export_worker"),
        input=json.dumps(job),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    answer = {}
    with suppress(ValueError, IndexError):
        answer = json.loads(done.stdout.splitlines()[-1])
    if done.returncode == 0 and answer.get("ok"):
        return
    if "error" in answer:
        kind = UsageError if answer.get("usage") else DlcliError
        raise kind(answer["error"], hint=answer.get("hint"))
    said = done.stderr.strip().splitlines()
    raise DlcliError(
        f"the process that wrote the {entry.name} file ended with {describe_exit(done.returncode)}"
        + (f": {said[-1][:_SAID_LAST]}" if said else ""),
        hint="killed from outside, it most often lacked memory; nothing was left behind",
    )


def main(argv: list[str]) -> None:
    """The child: a job as JSON on stdin, its end as a line of JSON on stdout."""
    job = json.load(sys.stdin)
    try:
        with redirect_stdout(sys.stderr):  # what libraries print is no answer
            _write(job)
        answer: dict[str, object] = {"ok": True}
    except DlcliError as exc:
        answer = {"error": exc.message, "hint": exc.hint, "usage": isinstance(exc, UsageError)}
    print(json.dumps(answer), flush=True)  # noqa: T201 - the parent reads it
    # Some compilers leave threads that end the interpreter badly after their work is done.
    os._exit(0)


def _write(job: dict[str, object]) -> None:
    source = open_artifact(Path(str(job["source"])), device="cpu", trust=bool(job["trust"]))
    source = source.with_card(Card.from_json(str(job["card"]), source=job["source"]))
    entry = FORMATS.get(str(job["format"]))
    assert entry.write is not None
    entry.write(source, Path(str(job["path"])), ExportConfig.model_validate(job["config"]))
