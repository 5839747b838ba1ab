"""JSON files of dlcli that carry the digests of their own entries: what was changed since is known.

They are written as a whole, so a crash leaves no file whose digests are those of another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcli.files import read_json, write_json

KEY = "sha256"  # entry: digest of its value


def with_checksums(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries and the digests of all of them."""
    entries = {key: value for key, value in values.items() if key != KEY}
    return {**entries, KEY: {key: _digest(value) for key, value in entries.items()}}


def changed_entries(values: Mapping[str, Any]) -> list[str]:
    """Return the names of entries that do not match their digests; none where a file has no digests."""
    if KEY not in values:
        return []
    recorded, actual = values[KEY], with_checksums(values)[KEY]
    if not isinstance(recorded, Mapping):
        return [KEY]
    return sorted(key for key in {*recorded, *actual} if recorded.get(key) != actual.get(key))


def change_message(path: Path, values: Mapping[str, Any]) -> str | None:
    """Return a sentence that names what was changed in a file of `with_checksums`; None for nothing."""
    changed = changed_entries(values)
    if not changed:
        return None
    return f"{path} was changed after dlcli wrote it: its SHA-256 of {', '.join(changed)} does not match"


def renew_checksums(path: Path) -> None:
    """Write a file with the digests of what it holds now. Raises: DlcliError."""
    write_json(path, with_checksums(read_json(path)))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
