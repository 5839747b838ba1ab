"""``dlcli info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dlcli.commands.options import Json, Quiet, RunsDir
from dlcli.errors import BoundMissed, DlcliError, UsageError, nearest
from dlcli.runs.folder import DEFAULT_ROOT

_Artifact = Annotated[
    str | None,
    typer.Argument(
        help="A model file, a run folder or a run's name (default: this machine).",
        show_default=False,
    ),
]
_Require = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="DEVICE",
        help="Exit with 3 unless this device works: cpu, cuda, cuda:1, mps or xpu.",
        show_default=False,
    ),
]
_Timeout = Annotated[
    float, typer.Option("--timeout", min=1, help="Time limit of the library tests, in seconds.")
]


def command(
    artifact: _Artifact = None,
    require: _Require = None,
    timeout: _Timeout = 120.0,
    runs_dir: RunsDir = DEFAULT_ROOT,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show this machine's devices and libraries, or the card of a model file.

    Without an argument: versions, hardware, and a test computation on every device. It also works, and
    says what is wrong, when torch or torchvision is broken.
    """
    if artifact is not None:
        if require:
            raise UsageError("--require is for this machine, not for a model file")
        _show_artifact(artifact, runs_dir, as_json=as_json)
    else:
        _show_machine(require or [], timeout, as_json=as_json, quiet=quiet)


def _show_machine(require: list[str], timeout_s: float, *, as_json: bool, quiet: bool) -> None:
    from dlcli.machine.report import DEVICE_KINDS, inspect_machine
    from dlcli.ui import console
    from dlcli.ui import json_output as report
    from dlcli.ui.info import print_machine

    for device in require:
        if device.partition(":")[0] not in DEVICE_KINDS:
            raise UsageError(f"--require {device}: no such device", hint=nearest(device, DEVICE_KINDS))
    err = console.stderr()
    if quiet or as_json or not console.on_terminal(err):
        machine = inspect_machine(timeout_s=timeout_s)
    else:
        with err.status("testing torch, the devices and ONNX Runtime (a few seconds)"):
            machine = inspect_machine(timeout_s=timeout_s)
    reasons = {device: machine.missing(device) for device in require}
    required = [{"device": d, "ok": r is None, "reason": r} for d, r in reasons.items()]
    cache = _image_cache()
    result: dict[str, Any] = {
        "command": "info",
        **machine.to_dict(),
        "required": required,
        "image_cache": cache,
    }
    if as_json:
        report.print_json(result)
    else:
        print_machine(machine, cache)
    for device, reason in reasons.items():
        if reason is not None:
            raise BoundMissed(
                f"--require {device}: {reason}",
                hint="run dlcli info without --require to see every device",
            )
    if not machine.usable:
        first = machine.problems[0]
        raise DlcliError(first.message, hint=first.hint)


def _image_cache() -> dict[str, Any] | None:
    """The folder, size and limit of the cache of decoded images; None where there can be none."""
    from dlcli.pixels.cache.folder import disk_cache

    cache = disk_cache("auto", None, None)
    if cache is None:
        return None
    return {"dir": str(cache.root), "size_bytes": cache.size(), "limit_bytes": cache.limit_bytes()}


def _show_artifact(artifact: str, runs_dir: Path, *, as_json: bool) -> None:
    from dlcli.formats.base import recognize
    from dlcli.runs.folder import find_artifact, run_of
    from dlcli.ui.card import print_card
    from dlcli.ui.json_output import print_json
    from dlcli.ui.transforms import in_words

    path = find_artifact(artifact, runs_dir)
    file = recognize(path)
    card, verified = file.card, file.verify()
    known = file.runs_code and file.is_own and file.code_is_known
    if not as_json:
        print_card(
            card,
            path=str(path),
            format=file.format.name,
            size_bytes=file.size,
            sha256=file.sha256,
            verified=verified,
            runs_code=file.runs_code,
            known=known,
            facts=file.format.facts(path),
        )
        return
    run = run_of(path)
    print_json(
        {
            "command": "info",
            "artifact": str(path),
            "run": str(run.path) if run else None,
            "format": file.format.name,
            **file.format.facts(path),
            "facts": file.format.facts(path),
            "size_bytes": file.size,
            "sha256": file.sha256,
            "verified": verified,
            "runs_code": file.runs_code,
            "trusted": known or not file.runs_code,
            "changes": [in_words(record) for record in card.transforms],
            "metrics": card.metrics,
            "card": card.model_dump(mode="json"),
        }
    )
