"""Call a user's class or function for its data sets: ``file.py:NAME`` with ``data.args``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.call_arguments import check_arguments
from dlcli.errors import DlcliError
from dlcli.trust import DATA_GROUP
from dlcli.user_code import UserObject, load_object
from dlcli.user_data.chance import preserved, seed_generators

_WANTED = "it gives a data set with __len__ and __getitem__, an iterable, or {split: data set}"
_PATH_NAMES = ("path", "root", "dir", "folder", "file", "filename", "directory")


@dataclass(frozen=True)
class UserSet:
    """What the user's code gave: a data set of each split, or of "all"; and the object that was called.

    ``args`` are those of the call. A data set is of map style, or an iterable.
    """

    code: UserObject
    args: Mapping[str, Any]
    splits: Mapping[str, Any]

    def attribute(self, name: str) -> Any:
        """An attribute of the training data set, or of one that it wraps (`Subset`, `ConcatDataset`)."""
        inner = self.splits.get("train", next(iter(self.splits.values())))
        while inner is not None:
            value = getattr(inner, name, None)
            if value is not None:
                return value
            parts = getattr(inner, "datasets", None)
            first = parts[0] if isinstance(parts, list | tuple) and parts else None
            inner = getattr(inner, "dataset", None) if first is None else first
        return None


def call(name: str, args: Mapping[str, Any], split_names: Mapping[str, str]) -> UserSet:
    """Call the object of a name. The global generators are seeded: `random_split` divides alike.

    ``split_names`` maps the words of splits, in lower case, to train, val and test. Raises: UsageError
    for arguments that it does not take; DlcliError where the code fails or gives something else than
    data sets.
    """
    args = absolute_paths(args)
    code = load_object(name, DATA_GROUP, args)
    check_arguments(code.label, code.value, "data.args", args)
    with preserved(), code.errors(f"{code.name} failed"):
        seed_generators("data set")
        value = code.value(**args)
    if not isinstance(value, Mapping):
        return UserSet(code, args, {"all": _checked(value, code.name)})
    splits = {}
    for key, part in value.items():
        split = split_names.get(str(key).lower())
        if split is None or split in splits:
            names = ", ".join(map(str, value))
            raise DlcliError(
                f"{code.name} gave a dict of {names}, which are not splits",
                hint="name them train, val and test",
            )
        splits[split] = _checked(part, f"{code.name} ({split})")
    if not splits:
        raise DlcliError(f"{code.name} gave an empty dict", hint=_WANTED)
    return UserSet(code, args, splits)


def is_map_style(data: Any) -> bool:
    """Whether samples are asked for by index; other data sets are iterated."""
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is not None and isinstance(data, torch_data.IterableDataset):
        return False
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def absolute_paths(args: Mapping[str, Any]) -> dict[str, Any]:
    """Make texts absolute that are paths of files from here: later commands may run elsewhere.

    These are existing paths with a separator in them, or of an argument that is named like a path.
    """
    return {key: _absolute(value) if _is_path(key, value) else value for key, value in args.items()}


def _is_path(key: str, value: object) -> bool:
    if not isinstance(value, str) or not value or not os.path.exists(os.path.expanduser(value)):
        return False
    return "/" in value or os.sep in value or key.lower().rpartition("_")[2] in _PATH_NAMES


def _absolute(value: str) -> str:
    return str(Path(value).expanduser().absolute())


def _checked(data: Any, where: str) -> Any:
    """Raises: DlcliError for an object that is no data set."""
    kind = type(data).__name__
    if kind == "DataLoader":
        raise DlcliError(f"{where} gave a DataLoader", hint="return its data set: dlcli makes batches")
    if kind in ("DataFrame", "LazyFrame"):
        raise DlcliError(
            f"{where} gave a {kind}, not a data set", hint="write it as .parquet and give --data FILE"
        )
    wrong = isinstance(data, str | bytes | Mapping) or data is None
    if wrong or not (is_map_style(data) or hasattr(data, "__iter__")):
        lacks = "" if wrong else ", without __len__ and __getitem__ and without __iter__"
        raise DlcliError(f"{where} gave a {kind}{lacks}", hint=_WANTED)
    return data
