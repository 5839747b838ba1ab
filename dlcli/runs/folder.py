"""Run folders: their layout and names, and the one that a command uses by default."""

from __future__ import annotations

import os
import re
import shlex
import sys
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dlcli import __version__
from dlcli.checksums import KEY, changed_entries, with_checksums
from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.files import parse_json, read_json, user_path, write_json
from dlcli.wording import listed

DEFAULT_ROOT = Path("runs")
_TRAIN = "train one: dlcli train --model cnn --data digits"
NOTE_BYTES = 10_000  # that are read of a note
FOLDS = "folds.json"  # of a folder with the runs of a cross-validation
STUDY = "study.json"  # of a folder with the runs of a search for settings
_GROUPS = {FOLDS: ("cross-validation", "fold-1"), STUDY: ("study", "trial-000")}  # and their first runs
_MODEL_SUFFIXES = (".safetensors", ".onnx", ".pt", ".pth", ".pt2", ".ckpt")  # which no run's name has
ENSEMBLE = "ensemble.safetensors"  # of such a folder: all its models in one file


@dataclass(frozen=True)
class RunFolder:
    """One run: ``config.yaml run.json splits.json metrics.jsonl best.safetensors state/ plots/``..."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        return self.path / "run.json"

    @property
    def splits(self) -> Path:
        return self.path / "splits.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def measured(self) -> Path:
        """What commands measured of the run's models, for its report."""
        return self.path / "measured"

    @property
    def note(self) -> Path:
        """A note about the run: a file of its own, since a process may be writing run.json."""
        return self.path / "note.txt"

    def read_note(self) -> str:
        """Return the note, "" where there is none. Raises: DlcliError when it cannot be read."""
        if not self.note.is_file():
            return ""
        try:
            with self.note.open("rb") as file:
                return file.read(NOTE_BYTES).decode("utf-8", errors="replace").strip()
        except OSError as exc:
            raise DlcliError(f"cannot read {self.note}: {exc.strerror or exc}") from exc

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.path / "report.html"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def adapter(self) -> Path:
        """The low-rank factors and the head of the best model, of a LoRA run."""
        return self.path / "adapter.safetensors"

    @property
    def micro(self) -> Path:
        """The largest micro-batch, written when memory ran out in one of several processes."""
        return self.path / "micro-batch.json"

    @property
    def start(self) -> Path:
        """The weights that a fine-tuned run began with, as a model file."""
        return self.path / "start.safetensors"

    def model(self, name: str) -> Path:
        """The file of a saved model: "best", or another epoch, "epoch-7"."""
        return self.best if name == "best" else self.path / "epochs" / f"{name}.safetensors"

    def trace(self, step: int) -> Path:
        """The trace of a profiled run from a step on."""
        return self.path / f"profile-step-{step}.json.gz"

    @property
    def ship(self) -> Path:
        """What was shipped of the best model, a folder a target, and the attempts before that."""
        return self.path / "ship"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def code(self) -> Path:
        """Copies of the files of the user's code that the run trains with."""
        return self.path / "code"

    def write_record(self, values: dict[str, Any]) -> None:
        """Write run.json: argv, versions, device, data fingerprint, seed, warnings, status."""
        write_json(self.record, with_checksums(values))

    def read_record(self) -> dict[str, Any]:
        """Read run.json. Raises: DlcliError when it is damaged."""
        record = read_json(self.record)
        if not isinstance(record, dict):
            raise DlcliError(f"{self.record} is not the record of a run: it holds no mapping")
        return record

    def update_record(self, **values: Any) -> None:
        """Replace entries of run.json; what others have changed in it stays known as changed.

        Raises: DlcliError when it is damaged or cannot be written.
        """
        record = self.read_record()
        changed = changed_entries(record)
        updated = with_checksums({**record, **values})
        for key in changed:
            updated[KEY][key] = "changed"
        write_json(self.record, updated)


def check_links(path: Path) -> None:
    """Refuse a run folder parts of which are links to somewhere else: writing would go there.

    Raises: DlcliError naming the link, OSError.
    """
    root = path.resolve()
    for folder in (
        root,
        *(root / name for name in ("state", "plots", "epochs", "logs", "code", "measured")),
    ):
        for entry in list(os.scandir(folder)) if folder.is_dir() else ():
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                raise DlcliError(
                    f"{path / Path(entry.path).relative_to(root)} is a link out of the run folder, to "
                    f"{os.readlink(entry.path)}, and dlcli writes into no such place",
                    hint="put the file or folder itself there, or remove the link",
                )


def started_now(root: Path) -> dict[str, Any]:
    """Command line, folder, time and number of a run below ``root`` that starts now, for run.json.

    Numbers rise from run to run, also where the clock was put back.
    """
    return {**command_now(), "number": 1 + max(map(_number, list_runs(root)), default=0)}


def command_now() -> dict[str, Any]:
    """Command line, folder and time of this process, for JSON."""
    # Names of files need not be UTF-8, but JSON is.
    argv, cwd = (
        [text.encode("utf-8", "backslashreplace").decode() for text in texts]
        for texts in (sys.argv, [os.getcwd()])
    )
    return {"argv": argv, "cwd": cwd[0], "started_at": datetime.now(UTC).isoformat()}


def versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on."""
    import platform
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "torchvision", "numpy", "pillow")}
    return {"dlcli": __version__, "python": platform.python_version(), **packages}


def safe_name(name: str) -> str:
    """The name as that of a folder: letters and digits of any script, ``.``, ``_`` and ``-``."""
    return re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", name)).strip("-.") or "run"


def create_run(root: Path, name: str) -> RunFolder:
    """Create the folder ``root/name``, or ``name-2``, ``-3`` ... if that exists; none is overwritten.

    Raises: DlcliError when the folder cannot be created.
    """
    safe = safe_name(name)
    for number in range(1, 100_000):
        path = root / (safe if number == 1 else f"{safe}-{number}")
        try:
            path.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            if path.parent.exists() and not path.parent.is_dir():
                raise DlcliError(f"{root} is a file, not a folder for runs") from None
            continue
        except OSError as exc:
            raise DlcliError(
                f"cannot create the run folder {path}: {exc.strerror}",
                hint="choose another folder with --runs-dir",
            ) from exc
        return RunFolder(path)
    raise DlcliError(f"no free name for a run {safe!r} in {root}")


def list_runs(root: Path) -> list[RunFolder]:
    """The runs below ``root``, oldest first; those with a damaged record come first of all.

    They are in the order of their numbers, of which older versions wrote none: there the time counts.
    """
    folders = map(RunFolder, root.iterdir() if root.is_dir() else ())
    return sorted((run for run in folders if run.record.is_file()), key=_age)


def _age(run: RunFolder) -> tuple[int, str, str]:
    """Number, time of the start and name."""
    started_at = ""
    with suppress(DlcliError):
        started_at = str(run.read_record().get("started_at", ""))
    return _number(run), started_at, run.name


def _number(run: RunFolder) -> int:
    """The number in a run's record; 0 where there is none."""
    with suppress(DlcliError):
        number = run.read_record().get("number")
        return number if isinstance(number, int) else 0
    return 0


def newest_run(root: Path) -> RunFolder:
    """The run that was started last. Raises: DlcliError when there is none."""
    runs = list_runs(root)
    if not runs:
        groups = _groups(root)
        if groups:
            path, name = groups[-1]
            names = listed([path.name for path, _ in groups], 5)
            first = as_typed(path / _GROUPS[name][1])
            models = f", or all its models: {as_typed(path)}" if name == FOLDS else ""
            raise DlcliError(
                f"there is no single run in {root}{os.sep}, but {names}",
                hint=f"name one of its runs, such as {first}{models}",
            )
        raise DlcliError(f"there is no run in {root}{os.sep}", hint=_TRAIN)
    return runs[-1]


def _groups(root: Path) -> list[tuple[Path, str]]:
    """The cross-validations and studies below ``root`` by name, each with the name of its record."""
    return sorted((path.parent, name) for name in _GROUPS for path in root.glob(f"*/{name}"))


def find_run(text: str, root: Path) -> RunFolder:
    """Find the run that ``text`` names: "last", a run's name or a path. Raises: DlcliError."""
    if text == "last":
        return newest_run(root)
    text = user_path(text)
    for path in (root / text, Path(text)):
        if RunFolder(path).record.is_file():
            # "." and ".." have no name, by which a hint could name the run.
            return RunFolder(path if path.name not in ("", "..") else path.resolve())
        for record, (noun, first) in _GROUPS.items():
            if (path / record).is_file():
                raise UsageError(
                    f"{path} is a {noun}, and this needs one model",
                    hint=f"name one of its runs: {as_typed(path / first)}",
                )
    if Path(text).is_file():
        raise DlcliError(f"{text} is a file, and this needs a run", hint="give a run folder or its name")
    if os.sep in text or Path(text).suffix in _MODEL_SUFFIXES:
        raise DlcliError(f"{text} does not exist", hint="give a run folder or a run's name")
    names = [*(run.name for run in list_runs(root)), *(path.name for path, _ in _groups(root))]
    raise DlcliError(
        f"there is no run {text!r} in {root}{os.sep}",
        hint=nearest(text, names) if names else _TRAIN,
    )


def is_model_path(path: Path) -> bool:
    """Whether a path is of a model, not of a run: a file, or a folder with a suffix that is no run."""
    return path.is_file() or bool(path.suffix and path.is_dir() and not RunFolder(path).record.is_file())


def find_artifact(text: str | None, root: Path) -> Path:
    """Find the model that ``text`` names: a path, a run folder, a run's name; None is the newest run.

    Raises: DlcliError when it does not exist or the run has no model yet.
    """
    if text is not None:
        text = user_path(text)
        path = Path(text)
        if is_model_path(path):
            return path
        if not path.exists() and (path.suffix or os.sep in text) and not (root / text).exists():
            raise DlcliError(
                f"{text} does not exist", hint="give a model file, a run folder or a run's name"
            )
        for group in (root / text, path):
            if (group / FOLDS).is_file() and (group / ENSEMBLE).is_file():
                return group / ENSEMBLE
    run = newest_run(root) if text is None else find_run(text, root)
    if not run.best.is_file():
        raise DlcliError(
            f"run {run.name} has no model yet: {run.best} does not exist",
            hint=f"resume it with: {resume_command(run)}",
        )
    return run.best


def resume_command(run: RunFolder) -> str:
    """The command that resumes a run, from the current folder."""
    root = run.path.parent
    where = "" if root == DEFAULT_ROOT else f" --runs-dir {as_typed(root)}"
    return f"dlcli train --resume {as_typed(run.name)}{where}"


def as_typed(path: Path | str) -> str:
    """A name quoted for the shell, where it needs that."""
    if os.name == "nt":
        return f'"{path}"' if " " in str(path) else str(path)
    return shlex.quote(str(path))


def run_of(artifact: Path) -> RunFolder | None:
    """The run folder that an artifact lies in, also in ``epochs/`` or a folder of ``ship/``, or None."""
    folder = artifact.parent
    if folder.name == "epochs":
        folder = folder.parent
    elif folder.parent.name == "ship" and not RunFolder(folder).record.is_file():
        folder = folder.parent.parent
    run = RunFolder(folder)
    return run if run.record.is_file() else None


def artifact_name(path: Path) -> str:
    """What a model file is called where it is served: by its run where it is "best", else by its stem.

    ``best.onnx`` in a run has the run's name, ``best.int8-static.onnx`` that with ".int8-static".
    """
    run = run_of(path.resolve())
    stem = path.stem or path.name
    if run is not None and (stem == "best" or stem.startswith("best.")):
        return run.path.name + stem.removeprefix("best")
    return stem


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a file, in order, as `Event.to_dict` returns them; incomplete lines are skipped.

    NaN and infinity are None. Raises: DlcliError when the file cannot be read.
    """
    return [event for _, event in event_lines(path)]


def event_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The complete lines of a file of events, each with its parsed JSON object."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror or exc}") from exc
    lines = []
    for line in raw.split(b"\n"):
        try:
            event = parse_json(line)
        except ValueError:  # incomplete: the process was killed while it wrote
            continue
        if isinstance(event, dict):
            lines.append((line, event))
    return lines
