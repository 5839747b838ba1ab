"""Folders around an ONNX file: SHA256SUMS of their files, as of `sha256sum`, and opening them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dlcli.errors import DlcliError
from dlcli.files import sha256_file
from dlcli.formats.base import FORMATS, ModelFile, Runtime
from dlcli.formats.onnx import format as onnx_format

SUMS = "SHA256SUMS"


def write_sums(path: Path) -> None:
    """Write the digests of all files of a folder."""
    lines = [f"{sha256_file(file)}  {name}\n" for name, file in _files(path, ())]
    (path / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(path: Path, *, besides: Iterable[str] = ()) -> None:
    """Compare all files with the digests, except those in the folders ``besides``.

    Raises: DlcliError where one is missing, new or changed.
    """
    try:
        listed = (path / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
        actual = [f"{sha256_file(file)}  {name}" for name, file in _files(path, besides)]
    except OSError as exc:
        raise DlcliError(f"cannot read {exc.filename or path}: {exc.strerror}") from exc
    if listed != actual:
        names = sorted(filter(None, {line.partition("  ")[2] for line in set(listed) ^ set(actual)}))
        raise DlcliError(
            f"{path} is not as it was written: {', '.join(names[:5]) or SUMS} changed",
            hint="copy it again; with changes of your own, name the ONNX file in it",
        )


def _files(path: Path, besides: Iterable[str]) -> list[tuple[str, Path]]:
    """Names and paths of the files of a folder, without the list of digests."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / SUMS)
    names = ((file.relative_to(path).as_posix(), file) for file in files)
    return [(name, file) for name, file in names if name.partition("/")[0] not in set(besides)]


def model_in(path: Path, pattern: str) -> ModelFile:
    """The ONNX file of a folder. Raises: DlcliError where there is none, or several."""
    models = sorted(path.glob(pattern))
    if len(models) != 1:
        raise DlcliError(
            f"{path} has {len(models)} files of the form {pattern}, and dlcli reads one",
            hint="name the ONNX file itself",
        )
    return ModelFile(models[0], FORMATS.get("onnx"))


def open_in_folder(file: ModelFile, model: ModelFile, runtime: Runtime) -> onnx_format.OnnxArtifact:
    """The ONNX ``model`` of a folder, as the artifact of the folder. Raises: DlcliError."""
    opened = onnx_format.open_onnx(model, runtime)
    return onnx_format.OnnxArtifact(file, opened.card, opened.session, opened.notes)
