"""A folder of numbered runs of one command, each locked by the process that works on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from dlcli.errors import DlcliError
from dlcli.files import user_path, writing
from dlcli.runs.folder import DEFAULT_ROOT, RunFolder, as_typed
from dlcli.runs.locks import run_lock


@dataclass(frozen=True)
class RunGroup:
    """The folder of a cross-validation or a study: a record, its runs, and ``locks/`` of these.

    Subclasses say what the record is called, how the runs are numbered, and which command goes on.
    """

    path: Path

    RECORD: ClassVar[str]  # the name of the record, by which such a folder is known
    RUN: ClassVar[str]  # a pattern of the names of its runs, with their number
    NOUN: ClassVar[str]
    COMMAND: ClassVar[str]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def record(self) -> Path:
        return self.path / self.RECORD

    @property
    def resume_command(self) -> str:
        """The command that trains the rest."""
        root = self.path.parent
        where = "" if root == DEFAULT_ROOT else f" --runs-dir {as_typed(root)}"
        return f"dlcli {self.COMMAND} --resume {as_typed(self.name)}{where}"

    def run(self, number: int) -> RunFolder:
        """A run by its number, whether it exists or not."""
        return RunFolder(self.path / self.RUN.format(number))

    def claim(self, number: int) -> Path:
        """The folder whose lock a process holds while it works on a run, also before there is one.

        It may not exist: looking at a group writes nothing, see `working_on`.
        """
        return self.path / "locks" / self.RUN.format(number)

    @contextmanager
    def working_on(self, number: int) -> Iterator[None]:
        """Context in which this process alone works on a run.

        Raises: RunBusy while another process does; DlcliError where the group was deleted meanwhile.
        """
        path = self.claim(number)
        with writing(path):
            for folder in (path.parent, path):  # not parents: a deleted group does not come back
                folder.mkdir(exist_ok=True)
        with run_lock(path, grace_s=0):
            yield

    def claims(self) -> list[Path]:
        """The folders of `claim` that there are."""
        return sorted(path for path in (self.path / "locks").glob("*") if path.is_dir())

    def runs(self) -> list[RunFolder]:
        """The runs that have begun, by the names of their folders."""
        names = self.RUN.partition("{")[0]
        folders = (RunFolder(path) for path in sorted(self.path.glob(f"{names}*")))
        return [run for run in folders if run.record.is_file()]

    def is_finished(self, number: int) -> bool:
        """Whether a run has ended as planned. Raises: DlcliError for a damaged record."""
        run = self.run(number)
        return run.record.is_file() and run.read_record().get("status") == "finished"

    def discard_begun(self, number: int) -> None:
        """Remove what a process left that was killed before the run had a record: no step was trained.

        To be called under the lock of `claim`. Raises: DlcliError where something else is in its place.
        """
        path = self.run(number).path
        if not os.path.lexists(path):
            return
        is_folder = path.is_dir() and not path.is_symlink()
        others = [p.name for p in path.iterdir() if not _is_begun(p.name)] if is_folder else [""]
        if others:
            raise DlcliError(
                f"{path / others[0]} is in the place of a run of the {self.NOUN} {self.name}",
                hint=f"move it away, then: {self.resume_command}",
            )
        shutil.rmtree(path)

    @classmethod
    def find(cls, text: str, root: Path) -> Self | None:
        """The folder that ``text`` names, by its name below ``root`` or a path; None for none."""
        text = user_path(text)
        for path in (root / text, Path(text)):
            if (path / cls.RECORD).is_file():
                # "." and ".." have no name, by which a hint could name the folder.
                return cls(path if path.name not in ("", "..") else path.resolve())
        return None

    @classmethod
    def below(cls, root: Path) -> Iterator[Self]:
        """The folders of this sort below ``root``, by name."""
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if (path / cls.RECORD).is_file():
                yield cls(path)


def _is_begun(name: str) -> bool:
    """Whether it is the name of a file that a new run has before its record."""
    return name in ("config.yaml", "splits.json", "code", "lock") or name.startswith(".tmp-")
