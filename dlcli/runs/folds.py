"""The runs of a cross-validation, in one folder: ``folds.json fold-1/ fold-2/ ...``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.errors import DlcliError, UsageError
from dlcli.files import read_json, user_path, write_json
from dlcli.runs.folder import (
    DEFAULT_ROOT,
    FOLDS,
    RunFolder,
    as_typed,
    find_artifact,
    resume_command,
    safe_name,
)

_SCHEMA = 1


@dataclass(frozen=True)
class FoldsFolder:
    """The folder of a cross-validation, and its runs, which are numbered from 1."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def record(self) -> Path:
        return self.path / FOLDS

    @property
    def predictions(self) -> Path:
        """What each sample was predicted by the model that has not seen it."""
        return self.path / "out-of-fold.csv"

    @property
    def label_issues(self) -> Path:
        """The samples whose label the models contradict that have not seen them."""
        return self.path / "label-issues.csv"

    @property
    def resume_command(self) -> str:
        """The command that trains the rest."""
        root = self.path.parent
        where = "" if root == DEFAULT_ROOT else f" --runs-dir {as_typed(root)}"
        return f"dlcli train --resume {as_typed(self.name)}{where}"

    def run(self, fold: int) -> RunFolder:
        """The run that holds out a fold, whether it exists or not."""
        return RunFolder(self.path / f"fold-{fold}")

    def claim(self, fold: int) -> Path:
        """The folder whose lock a process holds while it trains a fold, also before there is a run."""
        path = self.path / "locks" / f"fold-{fold}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def is_finished(self, fold: int) -> bool:
        """Whether the run of a fold has ended as planned. Raises: DlcliError for a damaged record."""
        run = self.run(fold)
        return run.record.is_file() and run.read_record().get("status") == "finished"

    def read(self) -> dict[str, Any]:
        """Read folds.json: ``folds``, ``settings`` and, at the end, ``result``. Raises: DlcliError."""
        record = read_json(self.record)
        valid = isinstance(record, dict) and isinstance(record.get("settings"), dict)
        if not valid or record.get("schema") != _SCHEMA or not isinstance(record.get("folds"), int):
            raise DlcliError(f"{self.record} is not the record of a cross-validation")
        return dict(record)

    def has_test(self) -> bool:
        """Whether the data has a test split of its own, which no fold has seen. Raises: DlcliError."""
        return bool(read_json(self.run(1).splits).get("left_out"))

    def update(self, **values: Any) -> None:
        """Replace entries of folds.json. Raises: DlcliError."""
        write_json(self.record, {**self.read(), **values})

    def discard_begun(self, fold: int) -> None:
        """Remove what a process left that was killed before the run had a record: no step was trained.

        To be called under the lock of `claim`. Raises: DlcliError where something else is in its place.
        """
        path = self.run(fold).path
        if not os.path.lexists(path):
            return
        is_folder = path.is_dir() and not path.is_symlink()
        others = [p.name for p in path.iterdir() if not _is_begun(p.name)] if is_folder else [""]
        if others:
            raise DlcliError(
                f"{path / others[0]} is in the place of a run of the cross-validation {self.name}",
                hint=f"move it away, then: {self.resume_command}",
            )
        shutil.rmtree(path)


def _is_begun(name: str) -> bool:
    """Whether it is the name of a file that a new run has before its record."""
    return name in ("config.yaml", "splits.json", "code", "lock") or name.startswith(".tmp-")


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
        if group.path.exists() and (not group.path.is_dir() or any(group.path.iterdir())):
            raise UsageError(f"{group.path} is something else", hint="give another --name")
        try:
            group.path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise DlcliError(
                f"cannot create the folder {group.path}: {exc.strerror}",
                hint="choose another folder with --runs-dir",
            ) from exc
        write_json(group.record, {"schema": _SCHEMA, "folds": folds, "settings": settings})
        return group
    raise DlcliError(f"no free name for {name!r} in {root}")


def find_folds(text: str, root: Path) -> FoldsFolder | None:
    """The cross-validation that ``text`` names, by its name below ``root`` or a path; None for none."""
    text = user_path(text)
    groups = (FoldsFolder(path) for path in (root / text, Path(text)))
    return next((group for group in groups if group.record.is_file()), None)


def find_artifacts(texts: Sequence[str | None], root: Path) -> list[Path]:
    """`find_artifact` for each text; a cross-validation means the models of all its folds."""
    paths: list[Path] = []
    for text in texts:
        group = None if text is None else find_folds(text, root)
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
