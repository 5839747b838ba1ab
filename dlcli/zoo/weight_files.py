"""Where weights are: a folder's file, an index and the files that it names, the zip of a snapshot."""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dlcli.errors import DlcliError
from dlcli.files import check_unpacked, parse_json, temporary_folder
from dlcli.wording import plural

_INDEX = ".index.json"
# Files of weights in a folder: of a run, of a hub's snapshot; an index names the shards next to it.
FILES = (
    "best.safetensors",
    *("model.safetensors", f"model.safetensors{_INDEX}"),
    *("pytorch_model.bin", f"pytorch_model.bin{_INDEX}"),
)
# What the folder of a published text encoder has next to them.
CONFIG, TOKENIZER, POOLING = "config.json", "tokenizer.json", "1_Pooling/config.json"
FILES_WITH_WEIGHTS = (CONFIG, TOKENIZER, POOLING)
_AGAIN = "download it again"
_MOST_INDEX_BYTES = 64 * 2**20


def weights_file(path: Path) -> Path:
    """The file of weights that a path leads to: in a folder, the one with a name of `FILES`.

    Raises: DlcliError for a folder without one.
    """
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise DlcliError(
        f"--weights {path} has no file of weights",
        hint=f"give the file, or a folder with one of {', '.join(FILES)}",
    )


def is_index(path: Path) -> bool:
    """Whether a file says which tensors are in which files next to it."""
    return path.name.endswith(_INDEX)


def shards_of(index: Path) -> dict[str, list[str]]:
    """The files that an index names, each with the tensors that are in it by the index.

    Raises: DlcliError for a damaged index, one that names files elsewhere, and for missing files.
    """
    shards: dict[str, list[str]] = {}
    for tensor, file in _places(index).items():
        shards.setdefault(file, []).append(tensor)
    missing = sorted(name for name in shards if not (index.parent / name).is_file())
    if missing:
        raise DlcliError(
            f"{index} names {plural(len(shards), 'file')} of weights, and {len(missing):,} of them "
            f"{'is' if len(missing) == 1 else 'are'} missing: {missing[0]}",
            hint="download the snapshot again, whole",
        )
    return dict(sorted(shards.items()))


@contextmanager
def unpacked(path: Path, also: Sequence[str] = ()) -> Iterator[Path]:
    """Yield the folder of a hub's snapshot in a zip archive, unpacked for the block; else the path.

    Of several folders with weights it is the least deep; torch's own archives have none. Of its files
    those of the weights are unpacked, and those named in ``also``. Errors of the block name the archive.
    Raises: DlcliError for a damaged archive.
    """
    member = _weights_member(path)
    if member is None:
        yield path
        return
    above, slash, name = member.rpartition("/")
    with temporary_folder() as folder:
        try:
            with _reading(path), zipfile.ZipFile(path) as archive:
                inside = set(archive.namelist())
                names = [name, *(one for one in also if f"{above}{slash}{one}" in inside)]
                _unpack(archive, path, above + slash, names, folder)
                if is_index(Path(name)):
                    shards = files_named_by(folder / name)
                    names = [one for one in shards if f"{above}{slash}{one}" in inside]
                    _unpack(archive, path, above + slash, names, folder)
            yield folder
        except DlcliError as exc:
            exc.message = exc.message.replace(str(folder), str(path))
            exc.hint = exc.hint and exc.hint.replace(str(folder), str(path))
            raise


def files_named_by(index: Path) -> list[str]:
    """The names of an index's files. Raises: DlcliError for a damaged index."""
    return sorted(set(_places(index).values()))


def _places(index: Path) -> dict[str, str]:
    """The file of each tensor, a file next to the index. Raises: DlcliError."""
    try:
        if index.stat().st_size > _MOST_INDEX_BYTES:
            raise ValueError("it is no index of tensors")
        content = parse_json(index.read_text(encoding="utf-8"))
        places = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(places, dict) or not places:
            raise ValueError("it has no weight_map, the file of each tensor")
        for tensor, file in places.items():
            if not isinstance(file, str) or not re.fullmatch(r"[\w-][\w.-]*", file):
                raise ValueError(f"it places {tensor} in {file!r}, which is no file next to it")
    except (OSError, ValueError) as exc:
        raise DlcliError(f"{index} is damaged: {exc}", hint=_AGAIN) from exc
    return places


def _weights_member(path: Path) -> str | None:
    """The file of weights in a zip archive, the least deep; None for torch's archives."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with _reading(path), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] in FILES]
    return min(
        names, key=lambda name: (name.count("/"), FILES.index(name.rpartition("/")[2])), default=None
    )


def _unpack(
    archive: zipfile.ZipFile, path: Path, prefix: str, names: Sequence[str], folder: Path
) -> None:
    """Unpack members; their checksums are verified. Raises: DlcliError."""
    check_unpacked(path, sum(archive.getinfo(prefix + name).file_size for name in names))
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            _reading(path, prefix + name),
            archive.open(prefix + name) as source,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(source, file)


@contextmanager
def _reading(path: Path, member: str | None = None) -> Iterator[None]:
    """Raises: DlcliError where an archive, or a member of it, is damaged."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as exc:
        where = f"its {member}: " if member else ""
        raise DlcliError(f"{path} is damaged: {where}{exc}", hint=_AGAIN) from exc
