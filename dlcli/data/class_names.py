"""Names of classes for people: a file that renames the classes of the data (--class-names)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlcli.data.base import DataSource
from dlcli.errors import UsageError, nearest
from dlcli.files import parse_json
from dlcli.settings import parse_yaml
from dlcli.wording import first_line, listed

_FORMS = "JSON or YAML of old to new names, lines of old and new name, or one name a line in class order"


def rename_classes(source: DataSource, names: str | Mapping[str, str] | None) -> DataSource:
    """Rename the classes of a source by a file, or by the old and new names that a run recorded.

    These are in the options of the result, so that other data is renamed alike. Recorded names may be of
    classes that are missing here. Raises: UsageError for a file that does not fit the classes.
    """
    if names is None:
        return source
    if not source.class_names:
        raise UsageError(f"--class-names is for classes or labels, and this data is for {source.task}")
    classes = [_composed(name) for name in source.class_names]
    if isinstance(names, str):
        mapping = _read(Path(names).expanduser(), classes)
    else:
        mapping = {_composed(old): new for old, new in names.items()}
    unknown = [name for name in mapping if name not in classes]
    if unknown and isinstance(names, str):
        raise UsageError(
            f"--class-names {names}: the data has no class {unknown[0]!r}",
            hint=nearest(unknown[0], classes),
        )
    renamed = tuple(
        mapping.get(name, old) for name, old in zip(classes, source.class_names, strict=True)
    )
    twice = sorted({name for name in renamed if renamed.count(name) > 1})
    if twice:
        raise UsageError(
            f"--class-names gives several classes the name {listed(twice, 3)}",
            hint="each class needs a name of its own; classes are not merged",
        )
    return replace(source, class_names=renamed, options={**source.options, "class_names": mapping})


def _read(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """New names by old ones. Raises: UsageError when the file cannot be read or is of no known form."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"cannot read --class-names {path}: {reason}", hint=_FORMS) from exc
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        return _from_lines(path, text, classes)
    try:
        loaded = parse_json(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except ValueError as exc:
        raise UsageError(f"--class-names {path} is damaged: {first_line(exc)}", hint=_FORMS) from exc
    if isinstance(loaded, list):
        return _from_list(path, [_text(name, path) for name in loaded], classes)
    if not isinstance(loaded, dict) or not loaded:
        raise UsageError(f"--class-names {path} is neither a mapping nor a list", hint=_FORMS)
    pairs = [_pair(key, value, path) for key, value in loaded.items()]
    if not any(old in classes for old, _ in pairs) and all(old.isdigit() for old, _ in pairs):
        numbered = [(int(old), new) for old, new in pairs if int(old) < len(classes)]
        return {classes[index]: new for index, new in numbered}  # by class index
    return dict(pairs)


def _pair(key: Any, value: Any, path: Path) -> tuple[str, str]:
    """Old and new name of an item, also of ``index: [old, new]`` as ImageNet's classes are listed."""
    if isinstance(value, list) and len(value) == 2:
        return _composed(_text(value[0], path)), _text(value[1], path)
    return _composed(str(key)), _text(value, path)


def _from_lines(path: Path, text: str, classes: Sequence[str]) -> dict[str, str]:
    """Lines of old and new name, with a tab, comma, semicolon or space between; or of new names."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    by_length = sorted(classes, key=len, reverse=True)  # "red wine" before "red"
    pairs = [_split(line, by_length) for line in lines]
    if len(pairs) > 1 and pairs[0] is None and all(pairs[1:]):
        pairs = pairs[1:]  # a header
    complete = [pair for pair in pairs if pair is not None]
    is_mapping = bool(complete) and len(complete) == len(pairs)
    return dict(complete) if is_mapping else _from_list(path, lines, classes)


def _split(line: str, classes: Sequence[str]) -> tuple[str, str] | None:
    """The class at the beginning of a line and the rest of it; None where it is not both."""
    composed = _composed(line).strip('"')
    for name in classes:
        rest = composed.removeprefix(name) if composed.startswith(name) else ""
        separated = re.fullmatch(r'"?(?:\s*[,;\t]\s*|\s+)"?(.+)', rest)
        if separated is not None:
            return name, separated[1].strip()
    return None


def _from_list(path: Path, names: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    if len(names) != len(classes):
        raise UsageError(
            f"--class-names {path} has {len(names)} names, and the data {len(classes)} classes: "
            + listed(list(classes), 8),
            hint=_FORMS,
        )
    return dict(zip(classes, names, strict=True))


def _text(value: Any, path: Path) -> str:
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise UsageError(f"--class-names {path}: {value!r} is no name", hint=_FORMS)
    return str(value).strip()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
