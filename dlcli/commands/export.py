"""``dlcli export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.commands.options import Artifact, Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.commands.recording import record
from dlcli.config import ExportConfig, ExportSettings, parse_names
from dlcli.errors import BoundMissed, DlcliError, UsageError
from dlcli.runs.folder import DEFAULT_ROOT, find_artifact

if TYPE_CHECKING:
    from dlcli.deploy.export import ExportFailure, ExportResult
    from dlcli.formats.base import Format, ModelFile


@takes_config(ExportSettings)
def command(
    settings: Settings[ExportSettings],
    *,
    artifact: Artifact = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="The same as --format onnx.")] = False,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Comma-separated: onnx, torchscript, pt2, aoti, state-dict, openvino, executorch, "
            "coreml, triton, web, adapter.",
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All installed formats that support the options.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write (default: next to the model)."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the file with the model.")
    ] = True,
    sidecar: Annotated[
        bool,
        typer.Option("--sidecar", help="Also write FILE.json: classes, encoders, tokenizer."),
    ] = False,
    example: Annotated[
        str | None,
        typer.Option(
            "--example",
            help="Also write programs that use the file without dlcli: python, cpp, web, android, ios.",
        ),
    ] = None,
    with_example: Annotated[
        bool, typer.Option("--with-example", help="The same as --example python.")
    ] = False,
    trust: Trust = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model for deployment and check that its outputs are the same.

    Each file is opened again and compared with the model on real validation samples, at batch sizes 1,
    7 and 32. One that differs too much is named .failed, and the exit code is 3. Then model and file
    are measured: size, accuracy, latency. Without data the comparison is on noise, and the file says so.

    Examples:
        dlcli export --onnx
        dlcli export cnn-digits --onnx --softmax --example python,cpp
        dlcli export resnet18-imgs --format onnx,pt2 --max-drop 0.001
    """
    config = settings.resolve()
    path = find_artifact(artifact, runs_dir)

    from dlcli.deploy.export import ExportResult, check_target, export_all
    from dlcli.deploy.sidecar import check_companions, write_companions
    from dlcli.formats.examples.base import check_languages
    from dlcli.ui.export import print_export, print_exports
    from dlcli.ui.json_output import print_json
    from dlcli.ui.progress.sinks import progress_sink

    examples = list(dict.fromkeys([*parse_names(example), *(["python"] if with_example else [])]))
    check_languages(examples)
    names = [*parse_names(formats), *(["onnx"] if onnx else [])]
    source = _source(path)
    entries = _formats(names, examples, config.export, source, every=every)
    if output is not None and len(entries) > 1:
        raise UsageError(f"--output names one file, but {len(entries)} formats are given")
    wanted = [(entry, output or path.with_suffix(entry.suffix)) for entry in entries]
    for entry, target in wanted:
        check_target(path, target, entry)
    check_companions(wanted, sidecar=sidecar, examples=examples)
    with progress_sink(quiet, json_output) as emit:
        results = export_all(source, wanted, config, verify=verify, trust=trust, emit=emit)
        for one in results:
            if isinstance(one, ExportResult):
                name = f"export-{one.output.name}"
                record([path], name, command="export", result=one.to_dict(), emit=emit)
    companions = {
        one.output: write_companions(one, sidecar=sidecar, examples=examples)
        for one in results
        if isinstance(one, ExportResult) and one.ok
    }
    if json_output:
        print_json(_report(path, results, companions))
    elif len(results) == 1 and isinstance(results[0], ExportResult):
        print_export(results[0], companions.get(results[0].output, []))
    elif len(results) > 1:
        print_exports(results)
    _raise_failures(results)


def _source(path: Path) -> ModelFile:
    """Open the model to export. Raises: DlcliError if it is damaged, or is an export already."""
    from dlcli.formats.base import no_weights, recognize

    file = recognize(path)
    if file.card and not file.format.trainable:
        raise no_weights(file)
    return file


def _formats(
    names: list[str], examples: list[str], config: ExportConfig, source: ModelFile, *, every: bool
) -> list[Format]:
    """Return the requested formats; ``every`` adds all of ``source`` that these options can write.

    Raises: UsageError for none, for one that cannot be written, and for programs in ``examples`` that
    cannot be had.
    """
    from dlcli.deploy.export import installed_writers
    from dlcli.deploy.sidecar import check_programs
    from dlcli.formats.examples.base import WEB
    from dlcli.formats.export_options import formats_named

    entries = formats_named(names)
    for entry in entries:
        if reason := entry.unfit(source.card):
            raise UsageError(f"--format {entry.name} cannot hold {source.path}: {reason}")
    if every:
        entries += [entry for entry in installed_writers(config, source.card) if entry not in entries]
    if not entries and examples != [WEB]:
        raise UsageError("no format is given", hint="dlcli export --onnx")
    check_programs(examples, entries, source.card, config)
    if WEB in examples:
        entries += [entry for entry in formats_named([WEB]) if entry not in entries]
    return entries


def _report(
    path: Path, results: list[ExportResult | ExportFailure], companions: dict[Path, list[Path]]
) -> dict[str, Any]:
    """Return the JSON object; the fields of the first format are at its top level too."""
    rows = []
    for one in results:
        row = one.to_dict()
        files = companions.get(one.output, [])
        rows.append({**row, "beside": [str(file) for file in files]})
    return {"command": "export", "artifact": str(path), **rows[0], "exports": rows}


def _raise_failures(results: list[ExportResult | ExportFailure]) -> None:
    """Raise the error of the formats that failed, else of a parity bound that was missed."""
    from dlcli.deploy.export import ExportFailure

    failed = [one for one in results if isinstance(one, ExportFailure)]
    if len(failed) == 1:
        raise failed[0].error
    if failed:
        reasons = "; ".join(f"{one.format}: {one.error.message}" for one in failed)
        raise DlcliError(
            f"{len(failed)} of {len(results)} formats failed: {reasons}", hint=failed[0].error.hint
        )
    for one in results:
        if not isinstance(one, ExportFailure) and not one.ok and one.parity is not None:
            raise BoundMissed(
                f"{one.output} does not give the model's outputs: {one.parity.missed[0]}",
                hint="the file is kept under this name; try other options, or --no-verify",
            )
