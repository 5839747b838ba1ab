"""Export in a process of its own, since exporters keep state between exports, or crash."""

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
from dlcli.files import CannotWrite
from dlcli.formats.base import FORMATS, Artifact, Format, open_artifact
from dlcli.subprocesses import child_command, describe_exit

_MAX_ERROR_CHARS = 500


def write_in_process(
    source: Artifact, path: Path, entry: Format, config: ExportConfig, *, trust: bool
) -> None:
    """Call ``entry.write`` in a fresh process, with the card of ``source``.

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
    reply = {}
    with suppress(ValueError, IndexError):
        reply = json.loads(done.stdout.splitlines()[-1])
    if done.returncode == 0 and reply.get("ok"):
        return
    if "unwritable" in reply:
        raise CannotWrite(Path(reply["unwritable"]), reply["reason"])
    if "error" in reply:
        kind = UsageError if reply.get("usage") else DlcliError
        raise kind(reply["error"], hint=reply.get("hint"))
    lines = done.stderr.strip().splitlines()
    raise DlcliError(
        f"the process that wrote the {entry.name} file ended with {describe_exit(done.returncode)}"
        + (f": {lines[-1][:_MAX_ERROR_CHARS]}" if lines else ""),
        hint="if it was killed, it most often lacked memory; no file is left",
    )


def main(argv: list[str]) -> None:
    """Run in the child: read a job as JSON from stdin, write the result as a line of JSON to stdout."""
    job = json.load(sys.stdin)
    try:
        with redirect_stdout(sys.stderr):  # libraries print to stdout
            _write(job)
        reply: dict[str, object] = {"ok": True}
    except CannotWrite as exc:
        reply = {"unwritable": str(exc.path), "reason": exc.reason}
    except DlcliError as exc:
        reply = {"error": exc.message, "hint": exc.hint, "usage": isinstance(exc, UsageError)}
    print(json.dumps(reply), flush=True)  # noqa: T201 - the parent reads it
    # Some compilers leave threads that crash the interpreter at its end.
    os._exit(0)


def _write(job: dict[str, object]) -> None:
    source = open_artifact(Path(str(job["source"])), device="cpu", trust=bool(job["trust"]))
    source = source.with_card(Card.from_json(str(job["card"]), source=job["source"]))
    entry = FORMATS.get(str(job["format"]))
    assert entry.write is not None
    entry.write(source, Path(str(job["path"])), ExportConfig.model_validate(job["config"]))
