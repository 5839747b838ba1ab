"""What commands measured of a run's models, one JSON file each: the facts that its report is made of.

They are written once, by the command that measured them. A file holds what the command prints under
``--json``, the command line, the time, and the metrics on val of the model then: when training goes on,
the model changes, and what was measured of the old one is outdated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dlcli.errors import DlcliError
from dlcli.files import read_json, write_json
from dlcli.runs.folder import RunFolder, command_now, safe_name

SCHEMA = 1


class Measurement(BaseModel):
    """One file. ``result`` is the command's, ``model`` the metrics on val of the run's best model."""

    model_config = ConfigDict(frozen=True)

    command: str
    argv: tuple[str, ...] = ()
    started_at: str = ""
    model: dict[str, float] = {}
    result: dict[str, Any]
    name: str = ""


def write_measurement(
    run: RunFolder, name: str, *, command: str, model: Mapping[str, float], result: Mapping[str, Any]
) -> None:
    """Write a measurement; an older one of this name is replaced. Raises: DlcliError."""
    facts = {"schema": SCHEMA, "command": command, **command_now(), "model": model, "result": result}
    del facts["cwd"]
    write_json(run.measured / f"{safe_name(name)}.json", _numbers_as_words(facts))


def read_measurements(run: RunFolder) -> tuple[list[Measurement], list[str]]:
    """Return a run's measurements, oldest first, and a sentence about each that cannot be read."""
    measurements, problems = [], []
    for path in sorted(run.measured.glob("*.json")) if run.measured.is_dir() else ():
        try:
            measurements.append(_read(path))
        except DlcliError as exc:
            problems.append(exc.message)
    return sorted(measurements, key=lambda one: one.started_at), problems


def read_measurement(run: RunFolder, name: str) -> Measurement | None:
    """Return one measurement; None where there is none, or it is damaged: it will be written again."""
    path = run.measured / f"{safe_name(name)}.json"
    try:
        return _read(path) if path.is_file() else None
    except DlcliError:
        return None


def _read(path: Path) -> Measurement:
    """Raises: DlcliError for a file that is none."""
    content = read_json(path)
    try:
        one = Measurement.model_validate(content)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DlcliError(f"{path} is damaged: {where}: {first['msg'].lower()}") from exc
    return one.model_copy(update={"name": path.stem})


def _numbers_as_words(value: Any) -> Any:
    """Return values for JSON: NaN and infinities as "nan" and "inf", which are read as numbers again."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _numbers_as_words(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers_as_words(item) for item in value]
    return str(value) if isinstance(value, Path) else value
