"""List folders of one sample a file: ``root/CLASS/*`` or ``root/{train,val,test}/CLASS/*``.

Class folders are searched at any depth. Hidden names are skipped, and what is not a regular file (pipes,
sockets, devices, broken links). A linked folder is followed once, and only if its target is not listed
anyway: a link back into the data set would list samples repeatedly, or endlessly.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from dlcli.data.notices import Notice, left_out
from dlcli.data.sets.named import valid_unicode
from dlcli.data.split_folders import find_splits, undoubled
from dlcli.errors import DlcliError
from dlcli.wording import plural

_MAX_ENTRIES = 2_000  # of a folder that is searched for samples
_MAX_DEPTH = 4
_MIN_SHARE = 0.9  # of the files of a folder of samples without extensions
NOT_REGULAR = "pipes, devices or broken links"


@dataclass(frozen=True)
class SampleType:
    """How a sample's file is recognised: by the extension of its name, or where it has none by content.

    ``noun`` is the word for a sample; ``layouts`` is the hint on how the files should lie.
    """

    noun: str
    has_extension: Callable[[str], bool]
    has_content: Callable[[Path], bool]
    layouts: str


@dataclass(frozen=True)
class ListedFile:
    """The file of a sample: its id (the path relative to the root), its path and its size in bytes."""

    id: str
    path: Path
    size: int


@dataclass
class ClassFolders:
    """A listed folder: files by split ("all" without splits) and class, each class sorted by id."""

    root: Path
    kind: SampleType
    splits: dict[str, dict[str, list[ListedFile]]] = field(default_factory=dict)
    other_files: Counter[str] = field(default_factory=Counter)
    skipped_links: int = 0
    loose: int = 0
    notices: list[Notice] = field(default_factory=list)
    _bare: dict[tuple[str, str], list[ListedFile]] = field(default_factory=dict)
    _listed: list[str] = field(default_factory=list)  # real paths, below which everything is listed
    _followed: set[str] = field(default_factory=set)


def natural(name: str) -> tuple[tuple[int, int, str, str], ...]:
    """Sort key of natural order: "2" before "10"."""
    return tuple(
        # Python refuses to read numbers of more than 4,300 digits.
        (0, len(digits := part.lstrip("0")), digits, part)
        if part[0] in "0123456789"
        else (1, 0, part, "")
        for part in re.findall(r"[0-9]+|[^0-9]+", name)
    )


def class_name(folder: str) -> str:
    """The name of a class: that of its folder, in the composed form of Unicode (NFC).

    A Mac's archives hold the decomposed form of the same name.
    """
    return unicodedata.normalize("NFC", valid_unicode(folder))


def list_classes(root: Path, kind: SampleType) -> ClassFolders:
    """List the samples of a folder, with notices about what is left out.

    Raises: DlcliError when a folder cannot be listed, or splits are ambiguous or without class folders.
    """
    listing = ClassFolders(root, kind)
    top = undoubled(root, lambda folder: _subfolders(listing, folder))
    folders, _ = _subfolders(listing, top)
    splits, unused = find_splits(top, folders, _has_folders, kind.layouts)
    if unused:
        message = f"next to {splits['train'].name}, these folders are not used: {some(unused)}"
        listing.notices.append(left_out(message))
    for split, folder in _distinct(listing, splits, top).items():
        classes: dict[str, list[ListedFile]] = {}
        for path in _class_folders(listing, folder):
            name = class_name(path.name)
            if name in classes:
                message = f"{name}: its folders differ in the form of Unicode and are one class"
                listing.notices.append(Notice(message))
            classes.setdefault(name, []).extend(_files(listing, path, split, name))
        listing.splits[split] = classes
    _add_bare(listing)
    for classes in listing.splits.values():
        for files in classes.values():
            files.sort(key=lambda file: file.id)
    _add_notices(listing)
    return listing


def has_samples(root: Path, kind: SampleType, *, loose: bool) -> bool:
    """Whether a folder has samples at some depth, among its first entries; in itself if ``loose``.

    Files without extensions count where two folders hold almost nothing else.
    """
    bare_folders, bare, files_seen, seen = 0, 0, 0, 0
    pending, visited = [(root, 0)], {os.path.realpath(root)}
    while pending and seen <= _MAX_ENTRIES:
        folder, depth = pending.pop(0)
        files: list[os.DirEntry[str]] = []
        folders: list[os.DirEntry[str]] = []
        for entry in _entries(folder):
            seen += 1
            (folders if _is_dir(entry) else files).append(entry)
        named = (kind.has_extension(entry.name) and _size(entry) is not None for entry in files)
        if (depth or loose) and any(named):
            return True
        if depth:
            without = [entry for entry in files if is_bare(entry.name) and _size(entry) is not None]
            valid = [kind.has_content(Path(entry.path)) for entry in without[:4]]
            if len(valid) > 1 and all(valid):
                bare_folders, bare = bare_folders + 1, bare + len(without)
            files_seen += len(files)
        for entry in folders if depth < _MAX_DEPTH else ():
            target = os.path.realpath(entry.path)
            if target not in visited:
                visited.add(target)
                pending.append((Path(entry.path), depth + 1))
    return bare_folders > 1 and bare >= _MIN_SHARE * files_seen


def is_bare(name: str) -> bool:
    """Whether a file name has no extension: none at all, or one of digits, as messages are numbered."""
    return re.fullmatch(r"\.?\d*", PurePath(name).suffix) is not None


def files_below(folder: Path, kind: SampleType) -> list[Path]:
    """The samples below a folder at any depth, in natural order."""
    listing = ClassFolders(folder, kind)
    files = _files(listing, folder, "all", "")
    bare = [file for files in listing._bare.values() for file in files if kind.has_content(file.path)]
    return sorted((file.path for file in files or bare), key=lambda path: natural(path.as_posix()))


def some(names: Sequence[str]) -> str:
    """The first five names, and how many more."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _subfolders(listing: ClassFolders, parent: Path) -> tuple[list[Path], bool]:
    """The folders directly in ``parent``, in natural order, and whether it has samples too."""
    entries = _entries(parent)
    folders = [Path(entry.path) for entry in entries if _is_dir(entry)]
    has_files = any(listing.kind.has_extension(entry.name) for entry in entries)
    return sorted(folders, key=lambda path: natural(path.name)), has_files


def _distinct(listing: ClassFolders, splits: dict[str, Path], top: Path) -> dict[str, Path]:
    """The folders of the splits, without links to one that is listed already or to what holds them."""
    if "all" not in splits:
        listing.loose += sum(listing.kind.has_extension(entry.name) for entry in _entries(top))
    out = {}
    for split, folder in splits.items():
        inner = undoubled(folder, lambda folder: _subfolders(listing, folder))
        target = os.path.realpath(inner)
        if split != "all" and (
            _is_below(os.path.realpath(top), target)
            or any(_is_below(target, f) or _is_below(f, target) for f in listing._listed)
        ):
            listing.skipped_links += 1
            continue
        listing._listed.append(target)
        out[split] = inner
    return out


def _class_folders(listing: ClassFolders, parent: Path) -> list[Path]:
    """The folders directly in ``parent`` that may be listed; samples next to them are counted."""
    folders = []
    for entry in _entries(parent):
        if _is_dir(entry):
            if entry.is_symlink() and not _may_follow(listing, entry):
                listing.skipped_links += 1
                continue
            folders.append(Path(entry.path))
        elif listing.kind.has_extension(entry.name):
            listing.loose += 1
    return sorted(folders, key=lambda path: natural(path.name))


def _files(listing: ClassFolders, folder: Path, split: str, name: str) -> list[ListedFile]:
    """All samples below a class folder; files without extension are set aside."""
    out: list[ListedFile] = []
    bare = listing._bare.setdefault((split, name), [])
    # (folder, whether it was reached through a link). Iterative, so without a limit on depth.
    pending = [(folder, folder.is_symlink())]
    prefix = os.path.join(listing.root, "")
    while pending:
        current, linked = pending.pop()
        for entry in _entries(current):
            if _is_dir(entry):
                if entry.is_symlink() and (linked or not _may_follow(listing, entry)):
                    listing.skipped_links += 1
                    continue
                pending.append((Path(entry.path), linked or entry.is_symlink()))
                continue
            is_sample = listing.kind.has_extension(entry.name)
            size = _size(entry)
            if size is None:
                listing.other_files[NOT_REGULAR] += 1
            elif is_sample or is_bare(entry.name):
                id_ = valid_unicode(entry.path.removeprefix(prefix).replace(os.sep, "/"))
                (out if is_sample else bare).append(ListedFile(id_, Path(entry.path), size))
            else:
                listing.other_files[PurePath(entry.name).suffix.lower()] += 1
    return out


def _add_bare(listing: ClassFolders) -> None:
    """Take files without extension as samples by their content, if there are no others."""
    none = not any(files for classes in listing.splits.values() for files in classes.values())
    for (split, name), files in listing._bare.items():
        valid = [file for file in files if none and listing.kind.has_content(file.path)]
        listing.splits[split][name].extend(valid)
        if len(valid) < len(files):
            listing.other_files["no extension"] += len(files) - len(valid)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            shown = [e for e in entries if not e.name.startswith(".") and e.name != "__MACOSX"]
            return sorted(shown, key=lambda entry: entry.name)
    except OSError as exc:
        raise DlcliError(f"cannot list {folder}: {exc.strerror}") from exc


def _has_folders(folder: Path) -> bool:
    return any(_is_dir(entry) for entry in _entries(folder))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size(entry: os.DirEntry[str]) -> int | None:
    """The size of a regular file in bytes; None for broken links, pipes and devices."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except OSError:
        return None


def _may_follow(listing: ClassFolders, link: os.DirEntry[str]) -> bool:
    """Whether the target of a linked folder is new: not listed anyway, and no parent of what is."""
    target = os.path.realpath(link.path)
    parents = [*listing._listed, os.path.realpath(listing.root)]
    inside = any(_is_below(target, folder) for folder in listing._listed)
    above = any(_is_below(folder, target) for folder in parents)
    again = any(_is_below(target, f) or _is_below(f, target) for f in listing._followed)
    if inside or above or again:
        return False
    listing._followed.add(target)
    return True


def _is_below(path: str, folder: str) -> bool:
    if os.path.splitdrive(path)[0].lower() != os.path.splitdrive(folder)[0].lower():
        return False
    return os.path.commonpath([path, folder]) == folder


def _add_notices(listing: ClassFolders) -> None:
    """Add notices about files, links and class folders that are not used."""
    noun, notices = listing.kind.noun, listing.notices
    if listing.loose:
        notices.append(left_out(f"{plural(listing.loose, noun)} outside any class folder left out"))
    if listing.other_files:
        total = sum(listing.other_files.values())
        message = f"{plural(total, 'file')} of other kinds left out ({kinds_of_files(listing)})"
        notices.append(left_out(message))
    if listing.skipped_links:
        links = plural(listing.skipped_links, "linked folder")
        notices.append(left_out(f"{links} not followed: in the data set, or repeated"))
    names = dict.fromkeys(name for classes in listing.splits.values() for name in classes)
    empty = [n for n in names if not any(classes.get(n) for classes in listing.splits.values())]
    if empty and len(empty) < len(names):
        listed = some(sorted(empty, key=natural))
        notices.append(left_out(f"class folders without {noun}s, left out: {listed}"))
    same = _same_subfolders(listing.splits.get("all", {}))
    if same:
        message = f"all class folders hold the same folders ({some(same)})"
        notices.append(
            Notice(
                f"{message}: if these are the classes, call the others train and test",
                "same-folders",
                "warning",
            )
        )


def _same_subfolders(classes: dict[str, list[ListedFile]]) -> list[str]:
    """The folders that every class folder has, if it has no others and no samples next to them."""
    names = [set(_first_folders(files)) for files in classes.values() if files]
    if len(names) < 2 or None in names[0] or len(names[0]) < 2 or any(n != names[0] for n in names):
        return []
    return sorted((name for name in names[0] if name is not None), key=natural)


def _first_folders(files: Sequence[ListedFile]) -> Iterator[str | None]:
    """The folder in its class folder that each file lies in; None for one that lies in none."""
    for file in files:
        parts = file.id.split("/")
        yield parts[1] if len(parts) > 2 else None


def kinds_of_files(listing: ClassFolders) -> str:
    """The most frequent extensions of other files, with their counts."""
    most = sorted(listing.other_files.items(), key=lambda item: (-item[1], item[0]))[:4]
    return ", ".join(f"{kind}: {count}" for kind, count in most)
