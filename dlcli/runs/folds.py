"""The runs of a cross-validation, in one folder: ``folds.json fold-1/ fold-2/ ...``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlcli.errors import DlcliError, UsageError
from dlcli.files import read_json, user_path, write_json
from dlcli.runs.folder import ENSEMBLE, FOLDS, RunFolder, find_artifact, resume_command, safe_name
from dlcli.runs.group import RunGroup

_SCHEMA = 1


class FoldsFolder(RunGroup):
    """The folder of a cross-validation, and its runs, which are numbered from 1."""

    RECORD, RUN = FOLDS, "fold-{}"
    NOUN, COMMAND = "cross-validation", "train"

    @property
    def predictions(self) -> Path:
        """What each sample was predicted by the model that has not seen it."""
        return self.path / "out-of-fold.csv"

    @property
    def ensemble(self) -> Path:
        """The models of all folds in one file, where their encoders allow that."""
        return self.path / ENSEMBLE

    @property
    def label_issues(self) -> Path:
        """The samples whose label the models contradict that have not seen them."""
        return self.path / "label-issues.csv"

    @property
    def report(self) -> Path:
        """The page: the held-out folds, and the runs side by side."""
        return self.path / "report.html"

    def begun(self) -> list[RunFolder]:
        """The runs that have begun. Raises: DlcliError."""
        runs = (self.run(fold) for fold in range(1, self.read()["folds"] + 1))
        return [run for run in runs if run.record.is_file()]

    def read(self) -> dict[str, Any]:
        """Read folds.json: ``folds``, ``settings`` and, at the end, ``result``. Raises: DlcliError."""
        record = read_json(self.record)
        valid = isinstance(record, dict) and isinstance(record.get("settings"), dict)
        if not valid or record.get("schema") != _SCHEMA or not isinstance(record.get("folds"), int):
            raise DlcliError(f"{self.record} is not the record of a cross-validation")
        return dict(record)

    def create(self, folds: int, settings: Mapping[str, Any]) -> None:
        """Create the folder and its record. Raises: DlcliError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise DlcliError(
                f"cannot create the folder {self.path}: {exc.strerror}",
                hint="choose another folder with --runs-dir",
            ) from exc
        write_json(self.record, {"schema": _SCHEMA, "folds": folds, "settings": settings})

    def has_test(self) -> bool:
        """Whether there is a test split that no fold has seen. Raises: DlcliError."""
        return bool(read_json(self.run(1).splits).get("left_out"))

    def update(self, **values: Any) -> None:
        """Replace entries of folds.json. Raises: DlcliError."""
        write_json(self.record, {**self.read(), **values})


def open_folds(root: Path, name: str, settings: Mapping[str, Any], *, named: bool) -> FoldsFolder:
    """Create the folder of a cross-validation, or return that of the same name and settings.

    A name that was not given by the user (``named``) gets a number where it is taken. Raises:
    UsageError for a name that is taken by other settings or by something else.
    """
    folds = settings["data"]["folds"]
    for number in range(1, 100_000):
        safe = safe_name(name)
        group = FoldsFolder(root / (safe if number == 1 else f"{safe}-{number}"))
        if group.record.is_file() and named:
            if group.read()["settings"] != settings:
                raise UsageError(
                    f"{group.path} has folds of other settings",
                    hint=f"give another --name, or go on with those: {group.resume_command}",
                )
            return group
        if group.path.exists() and not named:
            continue
        if group.path.exists() and not _is_free(group.path):
            raise UsageError(f"{group.path} is something else", hint="give another --name")
        group.create(folds, settings)
        return group
    raise DlcliError(f"no free name for {name!r} in {root}")


def _is_free(path: Path) -> bool:
    """Whether a folder is empty but for what a killed process left of a record."""
    return path.is_dir() and all(entry.name.startswith(".tmp-") for entry in path.iterdir())


def folds_of(text: str, root: Path) -> FoldsFolder | None:
    """`FoldsFolder.find`, also for the file of its ensemble."""
    path = Path(user_path(text))
    if path.name == ENSEMBLE and (path.parent / FOLDS).is_file():
        return FoldsFolder(path.parent)
    return FoldsFolder.find(text, root)


def find_artifacts(texts: Sequence[str | None], root: Path) -> list[Path]:
    """`find_artifact` for each text; a cross-validation means the models of all its folds."""
    paths: list[Path] = []
    for text in texts:
        group = None if text is None else FoldsFolder.find(text, root)
        if group is None:
            paths.append(find_artifact(text, root))
            continue
        runs = [group.run(fold) for fold in range(1, group.read()["folds"] + 1)]
        missing = [run for run in runs if not run.best.is_file()]
        if missing:
            has_run = missing[0].record.is_file()
            way = resume_command(missing[0]) if has_run else group.resume_command
            raise DlcliError(
                f"{missing[0].path} of {group.path}{os.sep} has no model yet", hint=f"train it: {way}"
            )
        paths += [run.best for run in runs]
    return paths
