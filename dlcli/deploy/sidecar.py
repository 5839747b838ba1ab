"""Companions of an exported file: a JSON sidecar, and an example program that uses the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.deploy.export import ExportResult
from dlcli.errors import UsageError
from dlcli.files import write_json, write_text
from dlcli.formats.base import FORMATS, Format, ModelFile
from dlcli.formats.onnx.example import check_example as check_onnx_example

SCHEMA = 1
_WRITTEN_BY = "dlcli export"


def check_companions(
    entry: Format, target: Path, card: Card, config: ExportConfig, *, sidecar: bool, example: bool
) -> None:
    """Refuse companions that do not exist for a format, or would replace a file not written by export.

    Raises: UsageError.
    """
    if example:
        if entry.example is None:
            able = ", ".join(name for name, other in FORMATS.entries() if other.example)
            raise UsageError(
                f"--with-example: there is no example for {entry.name} files",
                hint=f"it is for {able}",
            )
        if entry.name == "onnx":
            check_onnx_example(card, embedded=config.embed_preprocessing)
        _refuse_other_files(_example_path(entry, target))
    if sidecar:
        _refuse_other_files(_sidecar_path(target))


def write_companions(result: ExportResult, *, sidecar: bool, example: bool) -> list[Path]:
    """Write the requested companions and return their paths."""
    entry, written = FORMATS.get(result.format), []
    if sidecar:
        path = _sidecar_path(result.output)
        write_json(path, facts(ModelFile(result.output, entry), result.card))
        written.append(path)
    if example and entry.example is not None:
        path = _example_path(entry, result.output)
        write_text(path, entry.example(result.output, result.card))
        written.append(path)
    return written


def facts(file: ModelFile, card: Card) -> dict[str, Any]:
    """Return the sidecar: classes, preprocessing, encoders and tokenizer, for programs without dlcli."""
    task = card.task
    return {
        "written_by": _WRITTEN_BY,
        "schema": SCHEMA,
        "file": file.path.name,
        "format": file.format.name,
        "model": card.model.name,
        "task": task.kind,
        "classes": list(task.class_names),
        "targets": [target.model_dump() for target in task.targets],
        "preprocessing": task.input.model_dump(mode="json"),
        "output": task.output.name,
        "changes": [record.model_dump(mode="json") for record in card.transforms],
        "card": json.loads(card.to_json()),
    }


def _sidecar_path(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _example_path(entry: Format, target: Path) -> Path:
    return target.with_name(f"predict_{entry.name.replace('-', '_')}.py")


def _refuse_other_files(path: Path) -> None:
    """Refuse to replace a file that no export wrote. Raises: UsageError."""
    if path.is_dir() or (path.is_file() and _WRITTEN_BY.encode() not in path.read_bytes()[:4096]):
        raise UsageError(
            f"{path} exists and was not written by dlcli export", hint="move it, or choose --output"
        )
