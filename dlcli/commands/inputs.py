"""Arguments ``[ARTIFACT]... INPUT...``: which of them are models."""

from __future__ import annotations

import os
from pathlib import Path

from dlcli.errors import DlcliError, UsageError
from dlcli.files import user_path
from dlcli.runs.folder import RunFolder
from dlcli.runs.folds import FoldsFolder


def split_arguments(command: str, inputs: list[str], runs_dir: Path) -> tuple[list[str], list[str]]:
    """Split leading artifacts from inputs. Raises: UsageError for no inputs."""
    first = next((i for i, text in enumerate(inputs) if not _is_artifact(text, runs_dir)), len(inputs))
    named, rest = inputs[:first], inputs[first:]
    if not rest:
        raise UsageError(
            f"{', '.join(named)} {'is a model' if len(named) == 1 else 'are models'}; nothing was given "
            f"to {command}",
            hint=f"dlcli {command} {' '.join(named)} FILE...",
        )
    return named, rest


def _is_artifact(text: str, runs_dir: Path) -> bool:
    """Return whether a text is a model file (by content or suffix), a run folder, or a run's name."""
    from dlcli.formats.base import FORMATS, sniff_format

    path = Path(user_path(text))
    if path.suffix in {entry.suffix for _, entry in FORMATS.entries()}:
        return True  # even if damaged or missing: no other model may replace it
    # os.path returns False for names that are too long, as a text may be.
    if os.path.isfile(path):
        try:
            sniff_format(path)
        except DlcliError:
            return False
        return True
    if os.path.exists(path):
        return os.path.isfile(RunFolder(path).record) or os.path.isfile(FoldsFolder(path).record)
    if text == "last":
        return True
    named = runs_dir / text
    return os.path.isfile(RunFolder(named).record) or os.path.isfile(FoldsFolder(named).record)
