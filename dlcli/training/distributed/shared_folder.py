"""One run folder for several machines that share a file system."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.files import TMP_PREFIX
from dlcli.runs.folder import RunFolder, safe_name


def launch_id(config: TrainConfig) -> str:
    """A digest of what the commands on all machines have in common: the settings but ``launch``."""
    settings = config.model_dump(mode="json", exclude={"launch"})
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def create_or_join_run(
    root: Path, name: str, identity: str, create: Callable[[Path], RunFolder]
) -> tuple[RunFolder, bool]:
    """The run that several machines train together, and whether this one created its folder.

    ``create(root)`` makes a run's folder, whole, in another root; it is renamed into place, so the first
    machine wins and the others see nothing unfinished. ``identity`` is `launch_id`, which tells this
    run from another of that name. Raises: UsageError for the latter, DlcliError.
    """
    run = RunFolder(root / safe_name(name))
    if run.record.is_file():
        return _join(run, identity), False
    try:
        root.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(prefix=TMP_PREFIX, dir=root))
    except OSError as exc:
        raise DlcliError(f"cannot make a run in {root}: {exc.strerror}") from exc
    try:
        created = create(tmp)
        created.update_record(launch_id=identity)
        try:
            os.rename(created.path, run.path)
        except OSError as exc:
            if not run.record.is_file():
                raise DlcliError(
                    f"cannot make the run folder {run.path}: {exc.strerror}",
                    hint="give another --name on all machines, or another --runs-dir",
                ) from exc
            return _join(run, identity), False  # another machine was faster
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return run, True


def _join(run: RunFolder, identity: str) -> RunFolder:
    if run.read_record().get("launch_id") != identity:
        raise UsageError(
            f"run {run.name} exists already and was started with other settings",
            hint="give another --name on all machines, or resume that run with --resume",
        )
    return run
