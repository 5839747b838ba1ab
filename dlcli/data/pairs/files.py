"""Read pairs of texts: tables, parallel files, tab-separated lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.config import DataConfig
from dlcli.data.notices import Notice, left_out
from dlcli.data.tables.frames import has_default_names, is_table, looks_like_text, need_column
from dlcli.data.tables.split_names import SPLIT_NAMES, split_files
from dlcli.data.text.files import PLAIN_SUFFIXES, is_number, read_lines
from dlcli.data.text.tables import other_columns, read_tables, text_cells
from dlcli.errors import DlcliError, nearest
from dlcli.wording import quoted_list

if TYPE_CHECKING:
    import polars

LAYOUTS = (
    "a table with two text columns, two files train.en and train.de with equally many lines, "
    "or lines of two texts separated by a tab"
)
_SOURCE_NAMES, _TARGET_NAMES = ("source", "src"), ("target", "tgt")
# The suffix of a parallel file: a language code or the side.
_SIDE_SUFFIX = re.compile(r"source|target|src|tgt|trg|[a-z]{2,3}([_-][a-z]{2,4})?", re.I)
_OTHER_SUFFIX = re.compile(
    "txt|csv|tsv|tab|all|md|py|sh|ts|npy|npz|gz|zip|tar|log|xml|yml|cfg|ini|pt|pth|bin|dat|doc|pdf|png|jpg"
    "|gif|bmp|tif|svg|js|css|htm|cpp|hpp|rs|go|lua|rst|rtf|bak|tmp|pkl|wav|avi|mov|rar|jar|sql|xls|idx"
)


@dataclass
class PairSplit:
    """One split: ids, source texts, target texts and groups; ``where`` names it in messages."""

    ids: list[str]
    sources: list[str]
    targets: list[str]
    where: str
    groups: list[str] | None = None


@dataclass
class PairListing:
    """Pairs by split, their files, detected settings (names of the sides), and notices."""

    splits: dict[str, PairSplit] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)


def plain_files(path: Path) -> dict[str, Path] | None:
    """Return the plain files at a path by split, or None; ``path`` itself may have any suffix."""
    if path.is_file() and not path.name.lower().endswith(PLAIN_SUFFIXES):
        return None if is_table(path) else {"all": path}
    try:
        return split_files(path, PLAIN_SUFFIXES)
    except DlcliError:
        return None


def is_pair_table(head: polars.DataFrame, config: DataConfig) -> bool:
    """Return whether a table has source and target texts, by the settings or its columns."""
    if config.text is not None and config.target is not None:
        sides = (config.text, config.target)
        if has_default_names(sides) and not set(sides) & set(head.columns) and head.width == 2:
            sides = (head.columns[0], head.columns[1])  # no header: the first row was read as one
        return all(side in head.columns and looks_like_text(head[side]) for side in sides)
    if config.text is not None or config.target is not None:
        return config.task == "seq2seq"
    return _find_sides(head, config) is not None


def _find_sides(frame: polars.DataFrame, config: DataConfig) -> tuple[str, str] | None:
    """Return the source and target columns by name, or the only two columns if both are texts."""
    names = [name for name in frame.columns if name not in other_columns(config)]
    named = [[n for n in names if n.lower() in side] for side in (_SOURCE_NAMES, _TARGET_NAMES)]
    if named[0] and named[1] and all(_mostly_distinct(frame[side[0]]) for side in named):
        return named[0][0], named[1][0]
    if len(names) == 2 and all(looks_like_text(frame[name]) for name in names):
        return names[0], names[1]
    return None


def read_pair_tables(path: Path, config: DataConfig) -> PairListing:
    """Read source and target columns of tables. Raises: DlcliError when a column is missing."""
    tables = read_tables(path, config, lambda frame, file: (_choose_sides(frame, config, file), 2, []))
    source, target = tables.columns
    options = {"text": source, "target": target}
    listing = PairListing(files=tables.files, options=options, notices=tables.notices)
    for split, rows in tables.splits.items():
        sides = [text_cells(rows.frame[name]) for name in (source, target)]
        listing.splits[split] = PairSplit(rows.ids, sides[0], sides[1], rows.where, rows.groups)
    return listing


def _choose_sides(frame: polars.DataFrame, config: DataConfig, path: Path) -> tuple[str, str]:
    """Return source and target columns, by the settings or inferred. Raises: DlcliError without two."""
    for name, what in ((config.text, "data.text"), (config.target, "--target")):
        if name is not None:
            need_column(frame, name, what=what, path=path)
    source, target = config.text, config.target
    if source is None or target is None:
        sides = _find_sides(frame, config)
        others = [n for n in frame.columns if n not in (source, target)]
        if source is None and target is None and sides is not None:
            source, target = sides
        elif frame.width == 2 and len(others) < 2:
            source, target = source or others[0], target or others[0]
    if source is None or target is None or source == target:
        raise DlcliError(
            f"{path} does not have two columns that look like text: {quoted_list(frame.columns, 8)}",
            hint="select them: --set data.text=SOURCE --target TARGET",
        )
    return source, target


def parallel_files(path: Path) -> dict[str, dict[str, Path]] | None:
    """Return parallel files as split to side to file, of a folder or next to a file.

    None unless there are exactly two sides: X.en and X.de, or train.en, train.de, test.en and so on.
    """
    if not path.parent.is_dir() or (path.is_file() and not _is_side(path)):
        return None
    folder = path if path.is_dir() else path.parent
    stem = None if path.is_dir() else path.stem if path.is_file() else path.name
    # A val or test file that is given itself is used without the other splits.
    single = path.is_file() and _split_from_stem(path.stem)[1] in ("val", "test")
    sides_by_split: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not _is_side(file) or not file.is_file():
            continue
        base, split = _split_from_stem(file.stem)
        if stem is not None and stem not in (base, file.stem) and base != _split_from_stem(stem)[0]:
            continue
        if single:
            if file.stem != stem:
                continue
            split = "all"
        sides = sides_by_split.setdefault(split, {})
        if file.suffix[1:] in sides:
            return None  # several files of one side: the pairs are ambiguous
        sides[file.suffix[1:]] = file
    base_split = "train" if "train" in sides_by_split else "all"
    pair = set(sides_by_split.get(base_split, ()))
    if len(pair) != 2:
        return None
    if base_split == "all":
        return {"all": sides_by_split["all"]}
    return {
        split: sides_by_split[split]
        for split in ("train", "val", "test")
        if set(sides_by_split.get(split, ())) == pair
    }


def _split_from_stem(stem: str) -> tuple[str, str]:
    """Split a file's stem into its name and its split: news.train is (news, train)."""
    words = re.split(r"[._-]", stem)
    for position in (-1, 0):
        split = SPLIT_NAMES.get(words[position].lower())
        if split is not None:
            del words[position]
            return ".".join(words), split
    return stem, "all"


def _is_side(file: Path) -> bool:
    suffix = file.suffix[1:].lower()
    return _OTHER_SUFFIX.fullmatch(suffix) is None and _SIDE_SUFFIX.fullmatch(suffix) is not None


def _mostly_distinct(column: polars.Series) -> bool:
    # A column named target may also hold classes.
    return column.n_unique() > len(column) / 2 and not column.dtype.is_numeric()


def read_parallel(path: Path, files: dict[str, dict[str, Path]], config: DataConfig) -> PairListing:
    """Pair the lines of parallel files. Raises: DlcliError when the numbers of lines differ.

    The source is the side given by the settings or by ``path``, or named source, else the
    alphabetically first.
    """
    sides = sorted(next(iter(files.values())), key=lambda side: (side.lower() in _TARGET_NAMES, side))
    if path.is_file() and path.suffix[1:] in sides:
        sides.sort(key=lambda side: side != path.suffix[1:])
    for name in (config.text, config.target):
        if name is not None and name not in sides:
            raise DlcliError(f"{path} has no side {name!r}", hint=nearest(name, sides))
    if config.target == sides[0] or config.text == sides[1]:
        sides.reverse()
    source, target = sides
    listing = PairListing(options={"text": source, "target": target})
    if config.text is None and config.target is None and source.lower() not in _SOURCE_NAMES:
        message = f"from {source} to {target}; --target {source} reverses it"
        listing.notices.append(Notice(message))
    for split, paths in files.items():
        lines = []
        for side in (source, target):
            text, notices = read_lines(paths[side])
            listing.notices += notices
            listing.files.append(paths[side])
            lines.append(text)
        if len(lines[0]) != len(lines[1]):
            raise DlcliError(
                f"{paths[source]} has {len(lines[0]):,} lines, "
                f"but {paths[target].name} has {len(lines[1]):,}",
                hint="line i of one file must be the translation of line i of the other",
            )
        prefix = "" if split == "all" else f"{split}/"
        ids = [f"{prefix}{i}" for i in range(len(lines[0]))]
        listing.splits[split] = PairSplit(ids, lines[0], lines[1], str(paths[source]))
    return listing


def looks_paired(lines: Sequence[str]) -> bool:
    """Return whether lines are two tab-separated texts; text after a second tab is ignored.

    A side of few distinct values, or of numbers, is a label.
    """
    if len(lines) < 2 or sum("\t" in line for line in lines) < 0.95 * len(lines):
        return False
    for side in (0, 1):
        cells = [
            cell.strip()
            for line in lines
            if len(cell_ := line.split("\t")) > 1
            for cell in [cell_[side]]
        ]
        if len(set(cells)) < 0.3 * len(cells) or sum(map(is_number, cells)) > 0.5 * len(cells):
            return False
    return True


def read_plain(path: Path) -> PairListing:
    """Read lines of a source and a target separated by a tab."""
    files = plain_files(path)
    if files is None:
        raise DlcliError(f"{path} has no known layout of pairs of texts", hint=LAYOUTS)
    listing = PairListing(files=list(files.values()))
    with_more_tabs = 0
    for split, file in files.items():
        lines, notices = read_lines(file)
        listing.notices += notices
        cells = [[*line.split("\t"), ""] for line in lines]
        with_more_tabs += sum(len(row) > 3 for row in cells)
        prefix = "" if split == "all" else f"{split}/"
        filled = [i for i, line in enumerate(lines) if line.strip()]
        listing.splits[split] = PairSplit(
            [f"{prefix}{i}" for i in filled],
            [cells[i][0] for i in filled],
            [cells[i][1] for i in filled],
            str(file),
        )
    if with_more_tabs:
        message = f"{with_more_tabs:,} lines have more than one tab; text after the second is ignored"
        listing.notices.append(left_out(message))
    return listing
