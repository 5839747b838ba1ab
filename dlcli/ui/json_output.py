"""Output of ``--json``: one JSON object on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from dlcli.files import finite

SCHEMA = 1


def print_json(obj: Mapping[str, Any]) -> None:
    """Print ``obj`` as one line of JSON, ``schema`` first; NaN and infinities become null."""
    sys.stdout.write(to_json({"schema": SCHEMA, **obj}) + "\n")
    sys.stdout.flush()


def to_json(obj: Mapping[str, Any]) -> str:
    """Return one line of strict JSON in ASCII, independent of locale and file names."""
    return json.dumps(finite(obj), allow_nan=False, default=_path)


def _path(value: object) -> str:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    raise TypeError(f"{type(value).__name__} has no JSON form")
