"""Companions of an exported file: a JSON sidecar, and short programs that use the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.deploy.export import ExportResult
from dlcli.errors import UsageError
from dlcli.files import write_json, write_text
from dlcli.formats.base import FORMATS, Format, ModelFile
from dlcli.formats.examples.base import WEB, Example
from dlcli.formats.export_options import check_options

SCHEMA = 1
_WRITTEN_BY = "dlcli export"


def check_programs(
    names: Sequence[str], entries: Sequence[Format], card: Card, config: ExportConfig
) -> None:
    """Refuse programs that the model, the formats or the options rule out; ``names`` are of LANGUAGES.

    Raises: UsageError that names the others, which it can have.
    """
    errors = {name: why for name in names if (why := _why_not(name, entries, card, config))}
    if not errors:
        return
    if len(names) == 1:
        raise next(iter(errors.values()))
    able = ",".join(name for name in names if name not in errors)
    raise UsageError(
        "; ".join(
            why.message + ("" if (why.hint or "").startswith("leave") else f" ({why.hint})")
            for why in errors.values()
        ),
        hint=f"--example {able} is possible" if able else "none of these is possible: leave them out",
    )


def _why_not(
    name: str, entries: Sequence[Format], card: Card, config: ExportConfig
) -> UsageError | None:
    """Return why there can be no program of this name; None where there can."""
    try:
        if name == WEB:
            _check_web(card, config)
        else:
            _check_language(name, entries, card, config)
    except UsageError as exc:
        return exc
    return None


def _check_web(card: Card, config: ExportConfig) -> None:
    entry = FORMATS.get(WEB)
    if reason := entry.unfit(card):
        raise UsageError(f"--example {WEB}: {reason}", hint="leave it out")
    check_options(entry, config)


def _check_language(name: str, entries: Sequence[Format], card: Card, config: ExportConfig) -> None:
    examples = [entry.examples[name] for entry in entries if name in entry.examples]
    if not examples:
        able = [other for other, entry in FORMATS.entries() if name in entry.examples]
        formats = ", ".join(entry.name for entry in entries) or "no format"
        raise UsageError(
            f"--example {name}: there is no example for {formats} files",
            hint=f"it is for {', '.join(able)}",
        )
    for example in examples:
        example.check(card, embedded=config.embed_preprocessing)


def check_companions(
    targets: Sequence[tuple[Format, Path]], *, sidecar: bool, examples: Sequence[str]
) -> None:
    """Refuse companions that would replace files of others. Raises: UsageError."""
    for entry, target in targets:
        for language in examples:
            if example := entry.examples.get(language):
                _refuse_other_files(_example_path(entry, target, example))
        if sidecar:
            _refuse_other_files(_sidecar_path(target))


def write_companions(result: ExportResult, *, sidecar: bool, examples: Sequence[str]) -> list[Path]:
    """Write the requested companions that its format has, and return their paths."""
    entry, written = FORMATS.get(result.format), []
    if sidecar:
        path = _sidecar_path(result.output)
        write_json(path, facts(ModelFile(result.output, entry), result.card))
        written.append(path)
    for example in (entry.examples[name] for name in examples if name in entry.examples):
        path = _example_path(entry, result.output, example)
        write_text(path, example.write(result.output, result.card))
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


def _example_path(entry: Format, target: Path, example: Example) -> Path:
    return target.with_name(f"predict_{entry.name.replace('-', '_')}.{example.ending}")


def _refuse_other_files(path: Path) -> None:
    """Refuse to replace a file that no export wrote. Raises: UsageError."""
    if path.is_dir() or (path.is_file() and _WRITTEN_BY.encode() not in path.read_bytes()[:4096]):
        raise UsageError(
            f"{path} exists and was not written by dlcli export", hint="move it, or choose --output"
        )
