"""``dlcli export``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcli.commands.options import Artifact, Json, Quiet, RunsDir, Settings, takes_config
from dlcli.config import ExportConfig
from dlcli.errors import BoundMissed, UsageError
from dlcli.runs import DEFAULT_ROOT, find_artifact

if TYPE_CHECKING:
    from dlcli.engine.shipping import ExportResult


@takes_config(ExportConfig)
def command(
    settings: Settings[ExportConfig],
    *,
    artifact: Artifact = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="The same as --format onnx.")] = False,
    formats: Annotated[
        str | None, typer.Option("--format", help="Formats to write, with commas: onnx.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write (default: beside the model)."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the file with the model.")
    ] = True,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model for deployment and prove that it still gives the same answers.

    The file is opened again and compared with the model on real validation samples, at batch sizes
    1 and 7. One that differs too much is named .failed, and the exit code is 3.
    """
    config = settings.resolve()
    names = [name.strip() for name in (formats or "").split(",") if name.strip()]
    names = list(dict.fromkeys([*names, *(["onnx"] if onnx else [])]))
    if not names:
        raise UsageError("no format was named", hint="dlcli export --onnx")
    if output is not None and len(names) > 1:
        raise UsageError(f"--output names one file, but {len(names)} formats were asked for")
    path = find_artifact(artifact, runs_dir)

    from dlcli.engine.shipping import check_target, export, writer
    from dlcli.ui.report import print_json

    entries = [writer(name) for name in names]
    results = []
    for entry in entries:
        target = output or path.with_suffix(entry.suffix)
        check_target(path, target, entry)
        with _waiting(f"writing and checking {target}", quiet or json_output):
            results.append(export(path, target, entry, config, verify=verify))
    if json_output:
        first = results[0].to_dict()
        more = {"exports": [r.to_dict() for r in results]} if len(results) > 1 else {}
        print_json({"command": "export", **first, **more})
    else:
        for result in results:
            _show(result)
    for result in results:
        if result.parity is not None and not result.ok:
            raise BoundMissed(
                f"{result.output} does not give the model's answers: {result.parity.missed[0]}",
                hint="the file is kept for inspection under this name; try another --opset",
            )


def _waiting(message: str, silent: bool) -> AbstractContextManager[object]:
    """A spinner on stderr, where stderr is a terminal."""
    from dlcli.ui import console

    screen = console.stderr()
    return nullcontext() if silent or not console.on_terminal(screen) else screen.status(message)


def _show(result: ExportResult) -> None:
    from dlcli.ui.tables import print_comparison, print_key_values
    from dlcli.ui.text import figure

    parity = result.parity
    size = f"{_mib(result.source_bytes)} -> {_mib(result.output_bytes)}"
    rows = [("file", str(result.output)), ("size", size)]
    if parity is None:
        rows.append(("verdict", "not compared (--no-verify)"))
        print_key_values(f"export to {result.format}", rows)
        return
    on = f"{parity.samples:,} samples of {parity.data}"
    note = [("note", parity.note)] if parity.data == "random" else []
    verdict = "gives the same answers" if parity.ok else "DIFFERS: " + "; ".join(parity.missed)
    rows += [("compared on", on), *note, ("verdict", verdict)]
    print_key_values(f"export to {result.format}", rows)
    names = list(parity.metrics)
    same = ["same class"] if parity.batches[0].agreement is not None else []  # numbers have none
    table = [["model", "", *("" for _ in same), *(figure(parity.metrics[n]) for n in names)]]
    table += [
        [
            f"{result.format}, batch {b.batch_size}",
            f"{b.max_abs_diff:.2g}",
            *([] if b.agreement is None else [f"{b.agreement:.2%}"]),
            *(figure(b.metrics[n]) for n in names),
        ]
        for b in parity.batches
    ]
    print_comparison("beside the model", ["", "largest difference", *same, *names], table)


def _mib(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
