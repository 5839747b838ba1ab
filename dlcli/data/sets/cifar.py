"""CIFAR-10 and CIFAR-100, in the binary version or the Python version, which is a pickle.

Unpickling executes nothing: the few names that NumPy arrays need are bound to inert classes, all others
are rejected. https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Pixels
from dlcli.data.kinds import DataListing
from dlcli.data.sets.download import torchvision_datasets
from dlcli.data.sets.named import DATASETS, NamedSet, array_listing
from dlcli.errors import DlcliError

Batch = tuple[Pixels, npt.NDArray[np.integer[Any]]]  # (N, 32, 32, 3), (N,)

_IMAGE_BYTES = 3 * 32 * 32
_MAX_FILE_BYTES = 400 * 2**20  # bytes; the largest file of either set has 155 MB

_CLASSES_10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_CLASSES_100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
    dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
    leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
    otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
    road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905 - a hundred quotes hide typing errors
)


@dataclass(frozen=True)
class Cifar:
    """Files and labels of one set."""

    class_names: tuple[str, ...]
    folders: dict[str, str]  # version ("py", "bin") to folder
    batches: dict[str, tuple[str, ...]]  # split to file names without .bin
    label_key: str
    label_bytes: int  # of a binary record, before the pixels; the last one is used
    archive: str
    md5: str

    @property
    def url(self) -> str:
        return f"https://www.cs.toronto.edu/~kriz/{self.archive}"


CIFARS = {
    "cifar10": Cifar(
        class_names=_CLASSES_10,
        folders={"py": "cifar-10-batches-py", "bin": "cifar-10-batches-bin"},
        batches={
            "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
            "test": ("test_batch",),
        },
        label_key="labels",
        label_bytes=1,
        archive="cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": Cifar(
        class_names=_CLASSES_100,
        folders={"py": "cifar-100-python", "bin": "cifar-100-binary"},
        batches={"train": ("train",), "test": ("test",)},
        label_key="fine_labels",
        label_bytes=2,
        archive="cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
}


def read_pickle(path: Path) -> dict[str, Any]:
    """Read the dictionary of a CIFAR batch safely; byte arrays become uint8 arrays.

    Raises: DlcliError when the file refers to anything but NumPy arrays, or is damaged.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise DlcliError(f"{path} is larger than any CIFAR file")
        loaded = _RestrictedUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except _ForbiddenName as exc:
        raise DlcliError(
            f"{path} refers to {exc}, which no CIFAR file does; nothing was executed",
            hint="download the set from its own site; this file may be malicious",
        ) from exc
    except _UNPICKLING_ERRORS as exc:
        raise DlcliError(f"{path} is damaged or not a CIFAR file: {exc}") from exc
    if not isinstance(loaded, dict):
        raise DlcliError(f"{path} is not a CIFAR file: it has a {type(loaded).__name__}")
    return {str(key): _to_numpy(value, path) for key, value in loaded.items()}


class _ForbiddenName(Exception):
    """A pickle refers to a name that is not allowed."""


_UNPICKLING_ERRORS = (
    *(OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError),
    *(AttributeError, OverflowError, UnicodeDecodeError, RecursionError, struct.error),
)


class _ArrayState:
    """The pickled state of an array; NumPy's own reconstruction is not called."""

    def __init__(self, *args: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _DtypeState:
    """The pickled state of a dtype, such as "u1"."""

    def __init__(self, *args: object) -> None:
        self.code = args[0] if args else None

    def __setstate__(self, state: object) -> None:
        """Ignore the state, such as the byte order, which does not matter for single bytes."""


def _encode(text: str, encoding: str) -> bytes:
    """Encode as `_codecs.encode` does, for pickles of bytes of old protocols."""
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding}")
    return text.encode("latin1")


class _RestrictedUnpickler(pickle.Unpickler):
    _names: dict[tuple[str, str], Any] = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"): _ArrayState,
        ("numpy._core.multiarray", "_reconstruct"): _ArrayState,
        ("numpy", "ndarray"): _ArrayState,
        ("numpy", "dtype"): _DtypeState,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise _ForbiddenName(f"{module}.{name}") from None

    def persistent_load(self, pid: object) -> Any:
        raise _ForbiddenName("a persistent object")


def _to_numpy(value: object, path: Path) -> object:
    if not isinstance(value, _ArrayState):
        return value
    try:
        _, shape, dtype, fortran, raw = value.state
        raw = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        if getattr(dtype, "code", None) not in ("u1", "|u1", "uint8") or fortran:
            raise ValueError("an array that is not uint8 in C order")
        return np.frombuffer(raw, dtype=np.uint8).reshape(shape)
    except (ValueError, TypeError, UnicodeEncodeError) as exc:
        raise DlcliError(f"{path} is damaged or not a CIFAR file: {exc}") from exc


def _read(entry: Cifar, root: Path) -> DataListing | None:
    location = _locate(entry, root)
    if location is None:
        return None
    version, folder = location
    splits: dict[str, Batch] = {}
    for split, names in entry.batches.items():
        missing = [name for name in names if not _batch_path(folder, name, version).is_file()]
        if missing:
            raise DlcliError(f"{folder} lacks {', '.join(missing)}", hint="extract the archive again")
        read = _read_python if version == "py" else _read_binary
        batches = [read(entry, _batch_path(folder, name, version)) for name in names]
        splits[split] = (
            np.concatenate([pixels for pixels, _ in batches]),
            np.concatenate([labels for _, labels in batches]),
        )
    return array_listing(entry.class_names, splits, source=folder)


def _locate(entry: Cifar, root: Path) -> tuple[str, Path] | None:
    first = entry.batches["train"][0]
    for version, name in entry.folders.items():
        for folder in (root / name, root):
            if _batch_path(folder, first, version).is_file() and (
                folder.name == name or _batch_path(folder, entry.batches["test"][0], version).is_file()
            ):
                return version, folder
    return None


def _batch_path(folder: Path, name: str, version: str) -> Path:
    return folder / (name if version == "py" else f"{name}.bin")


def _read_python(entry: Cifar, path: Path) -> Batch:
    batch = read_pickle(path)
    pixels, labels = batch.get("data"), batch.get(entry.label_key)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _IMAGE_BYTES:
        raise DlcliError(f"{path} has no CIFAR pixels")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DlcliError(f"{path} has no {entry.label_key}")
    if len(labels) != len(pixels):
        raise DlcliError(f"{path}: {len(pixels)} images but {len(labels)} labels")
    return _to_pixels(pixels), np.array(labels, dtype=np.int64)


def _read_binary(entry: Cifar, path: Path) -> Batch:
    try:
        values = np.fromfile(path, dtype=np.uint8)
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    record = entry.label_bytes + _IMAGE_BYTES
    if not len(values) or len(values) % record:
        raise DlcliError(f"{path} has {len(values)} bytes, not a multiple of the record size {record}")
    records = values.reshape(-1, record)
    return _to_pixels(records[:, entry.label_bytes :]), records[:, entry.label_bytes - 1].astype(
        np.int64
    )


def _to_pixels(flat: npt.NDArray[np.uint8]) -> Pixels:
    """Convert (N, 3072) of colour planes to (N, 32, 32, 3)."""
    return np.ascontiguousarray(flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _recognises(entry: Cifar) -> Callable[[Path], bool]:
    """Recognise the set by its own folder; files named "train" and "test" could be anything."""

    def check(root: Path) -> bool:
        location = _locate(entry, root)
        return location is not None and location[1].name in entry.folders.values()

    return check


def _fetch(entry: Cifar, root: Path) -> None:
    # Only the download of torchvision is used: its data set class would unpickle the files.
    archives = torchvision_datasets().utils
    archives.download_and_extract_archive(entry.url, str(root), md5=entry.md5, remove_finished=True)


def _register(name: str, entry: Cifar) -> None:
    DATASETS.register(name)(
        NamedSet(
            read=lambda root: _read(entry, root),
            url=entry.url,
            fetch=lambda root: _fetch(entry, root),
            recognises=_recognises(entry),
        )
    )


for _name, _entry in CIFARS.items():
    _register(_name, _entry)
