"""The user's code that a run trains with: a copy of each file, and whether it has changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcli.config import TrainConfig
from dlcli.files import write_bytes
from dlcli.runs.folder import RunFolder
from dlcli.settings import flat, texts
from dlcli.trust import code_files
from dlcli.user_code import read_code

_CODE = "code"  # entry of run.json: path of a file -> {"copy", "sha256"}


def copy_code(run: RunFolder, config: TrainConfig) -> dict[str, Any]:
    """Copy the files of code that the settings name into the run; returns their entry of run.json.

    Copies are for people, who may want to know later what was trained; nothing runs them. Modules that
    a file imports are not copied. Raises: DlcliError.
    """
    entries = {}
    for path in code_files(texts(flat(config))):
        source = read_code(path)
        digest = hashlib.sha256(source).hexdigest()
        copy = run.code / f"{path.stem}-{digest[:8]}.py"
        write_bytes(copy, source)
        entries[str(path)] = {"copy": f"{run.code.name}/{copy.name}", "sha256": digest}
    return {_CODE: entries} if entries else {}


def changed_code(run: RunFolder, record: Mapping[str, Any]) -> list[str]:
    """Return sentences about the files that are not what the run began with.

    Of a file that is not there any more, the error where it is run says more.
    """
    entries = record.get(_CODE)
    sentences = []
    for name, entry in (entries if isinstance(entries, dict) else {}).items():
        path = Path(name)
        if not isinstance(entry, dict) or not path.is_file():
            continue
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry.get("sha256"):
            copy = run.path / str(entry.get("copy"))
            sentences.append(f"{name} has changed since run {run.name} began, with {copy}")
    return sentences
