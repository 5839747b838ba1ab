"""Pairs of texts on the disk: tables, parallel files, lines with a tab between."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.config import DataConfig
from dlcli.data.notices import Notice, left_out
from dlcli.data.tables.frames import is_table, looks_like_text, need_column
from dlcli.data.tables.split_names import SPLIT_NAMES, split_files
from dlcli.data.text.files import PLAIN, is_number, read_lines
from dlcli.data.text.tables import other_columns, read_tables, strings
from dlcli.errors import DlcliError, nearest

if TYPE_CHECKING:
    import polars

LAYOUTS = (
    "a table with two columns of text, two files train.en and train.de of as many lines, "
    "or lines with a tab between the two texts"
)
_SOURCE, _TARGET = ("source", "src"), ("target", "tgt")
# The suffix of a parallel file: a language, or the side it is.
_SIDE = re.compile(r"source|target|src|tgt|trg|[a-z]{2,3}([_-][a-z]{2,4})?", re.I)
_NO_SIDE = re.compile(
    "txt|csv|tsv|tab|all|md|py|sh|ts|npy|npz|gz|zip|tar|log|xml|yml|cfg|ini|pt|pth|bin|dat|doc|pdf|png|jpg"
    "|gif|bmp|tif|svg|js|css|htm|cpp|hpp|rs|go|lua|rst|rtf|bak|tmp|pkl|wav|avi|mov|rar|jar|sql|xls|idx"
)


@dataclass
class PairSplit:
    """One split: ids, source texts and target texts."""

    ids: list[str]
    sources: list[str]
    targets: list[str]
    where: str
    groups: list[str] | None = None


@dataclass
class PairListing:
    """Splits of pairs, the names of the two sides, the files, and notices."""

    parts: dict[str, PairSplit] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)


def plain_files(path: Path) -> dict[str, Path] | None:
    """The plain files at a path by split, or None; a file that is named may have any suffix."""
    if path.is_file() and not path.name.lower().endswith(PLAIN):
        return None if is_table(path) else {"all": path}
    try:
        return split_files(path, PLAIN)
    except DlcliError:
        return None


def is_pair_table(head: polars.DataFrame, config: DataConfig) -> bool:
    """Whether a table has a text to read and a text to write, by the settings or by its columns."""
    if config.text is not None and config.target is not None:
        sides = (config.text, config.target)
        return all(side in head.columns and looks_like_text(head[side]) for side in sides)
    if config.text is not None or config.target is not None:
        return config.task == "seq2seq"
    return _sides(head, config) is not None


def _sides(frame: polars.DataFrame, config: DataConfig) -> tuple[str, str] | None:
    """The columns to read and to write: those of that name, or the only two if both are texts."""
    names = [name for name in frame.columns if name not in other_columns(config)]
    named = [[n for n in names if n.lower() in side] for side in (_SOURCE, _TARGET)]
    if named[0] and named[1] and all(_distinct(frame[side[0]]) for side in named):
        return named[0][0], named[1][0]
    if len(names) == 2 and all(looks_like_text(frame[name]) for name in names):
        return names[0], names[1]
    return None


def read_pair_tables(path: Path, config: DataConfig) -> PairListing:
    """The rows of two columns. Raises: DlcliError when a column is missing."""
    tables = read_tables(path, config, lambda frame, file: (_named_sides(frame, config, file), 2, []))
    source, target = tables.columns
    options = {"text": source, "target": target}
    listing = PairListing(files=tables.files, options=options, notices=tables.notices)
    for split, rows in tables.splits.items():
        sides = [strings(rows.frame[name]) for name in (source, target)]
        listing.parts[split] = PairSplit(rows.ids, sides[0], sides[1], rows.where, rows.groups)
    return listing


def _named_sides(frame: polars.DataFrame, config: DataConfig, path: Path) -> tuple[str, str]:
    """The columns that the settings name, or that look like texts. Raises: DlcliError without two."""
    for name, what in ((config.text, "data.text"), (config.target, "--target")):
        if name is not None:
            need_column(frame, name, what=what, path=path)
    source, target = config.text, config.target
    if source is None or target is None:
        sides = _sides(frame, config)
        others = [n for n in frame.columns if n not in (source, target)]
        if source is None and target is None and sides is not None:
            source, target = sides
        elif frame.width == 2 and len(others) < 2:
            source, target = source or others[0], target or others[0]
    if source is None or target is None or source == target:
        raise DlcliError(
            f"{path} has no two columns that look like text: {', '.join(map(repr, frame.columns[:8]))}",
            hint="name them: --set data.text=SOURCE --target TARGET",
        )
    return source, target


def parallel_files(path: Path) -> dict[str, dict[str, Path]] | None:
    """Split to side to file, of the two sides that lie in a folder, or next to a named file.

    None unless there are exactly two sides: X.en and X.de, or train.en, train.de, test.en and so on.
    """
    if not path.parent.is_dir() or (path.is_file() and not _is_side(path)):
        return None
    folder = path if path.is_dir() else path.parent
    stem = None if path.is_dir() else path.stem if path.is_file() else path.name
    alone = path.is_file() and _split_of(path.stem)[1] in ("val", "test")  # named, so meant alone
    sides_by_split: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not _is_side(file) or not file.is_file():
            continue
        base, split = _split_of(file.stem)
        if stem is not None and stem not in (base, file.stem) and base != _split_of(stem)[0]:
            continue
        if alone:
            if file.stem != stem:
                continue
            split = "all"
        sides = sides_by_split.setdefault(split, {})
        if file.suffix[1:] in sides:
            return None  # several of one side: which belong together is not said
        sides[file.suffix[1:]] = file
    whole = "train" if "train" in sides_by_split else "all"
    pair = set(sides_by_split.get(whole, ()))
    if len(pair) != 2:
        return None
    if whole == "all":
        return {"all": sides_by_split["all"]}
    return {
        split: sides_by_split[split]
        for split in ("train", "val", "test")
        if set(sides_by_split.get(split, ())) == pair
    }


def _split_of(stem: str) -> tuple[str, str]:
    """What is left of a file's name without its split, and the split: news.train is news, train."""
    words = re.split(r"[._-]", stem)
    for place in (-1, 0):
        split = SPLIT_NAMES.get(words[place].lower())
        if split is not None:
            del words[place]
            return ".".join(words), split
    return stem, "all"


def _is_side(file: Path) -> bool:
    suffix = file.suffix[1:].lower()
    return _NO_SIDE.fullmatch(suffix) is None and _SIDE.fullmatch(suffix) is not None


def _distinct(column: polars.Series) -> bool:
    # A column named target may as well be a class.
    return column.n_unique() > len(column) / 2 and not column.dtype.is_numeric()


def read_parallel(path: Path, files: dict[str, dict[str, Path]], config: DataConfig) -> PairListing:
    """Line i of one file with line i of the other. Raises: DlcliError when one has more lines.

    Read is the side that the settings or a named file say, source before target, else by alphabet.
    """
    sides = sorted(next(iter(files.values())), key=lambda side: (side.lower() in _TARGET, side))
    if path.is_file() and path.suffix[1:] in sides:
        sides.sort(key=lambda side: side != path.suffix[1:])
    for name in (config.text, config.target):
        if name is not None and name not in sides:
            raise DlcliError(f"{path} has no side {name!r}", hint=nearest(name, sides))
    if config.target == sides[0] or config.text == sides[1]:
        sides.reverse()
    source, target = sides
    listing = PairListing(options={"text": source, "target": target})
    if config.text is None and config.target is None and source.lower() not in _SOURCE:
        message = f"from {source} to {target}; --target {source} is the other way round"
        listing.notices.append(Notice(message))
    for split, both in files.items():
        lines = []
        for side in (source, target):
            text, notices = read_lines(both[side])
            listing.notices += notices
            listing.files.append(both[side])
            lines.append(text)
        if len(lines[0]) != len(lines[1]):
            raise DlcliError(
                f"{both[source]} has {len(lines[0]):,} lines, "
                f"but {both[target].name} has {len(lines[1]):,}",
                hint="line by line they must say the same",
            )
        prefix = "" if split == "all" else f"{split}/"
        ids = [f"{prefix}{i}" for i in range(len(lines[0]))]
        listing.parts[split] = PairSplit(ids, lines[0], lines[1], str(both[source]))
    return listing


def looks_paired(lines: Sequence[str]) -> bool:
    """Whether lines are two texts with a tab between; what follows a second tab is ignored.

    A few words that come again and again on one side, or numbers, are labels.
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
    """Read the texts before and after the first tab of each line."""
    files = plain_files(path)
    if files is None:
        raise DlcliError(f"{path} holds no pairs of texts that dlcli knows", hint=LAYOUTS)
    listing = PairListing(files=list(files.values()))
    more = 0
    for split, file in files.items():
        lines, notices = read_lines(file)
        listing.notices += notices
        cells = [[*line.split("\t"), ""] for line in lines]
        more += sum(len(row) > 3 for row in cells)
        prefix = "" if split == "all" else f"{split}/"
        shown = [i for i, line in enumerate(lines) if line.strip()]
        listing.parts[split] = PairSplit(
            [f"{prefix}{i}" for i in shown],
            [cells[i][0] for i in shown],
            [cells[i][1] for i in shown],
            str(file),
        )
    if more:
        message = f"{more:,} lines have more than one tab; what follows the second is left out"
        listing.notices.append(left_out(message))
    return listing
