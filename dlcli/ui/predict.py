"""Predictions as a table, streamed: each line is printed as soon as it is predicted.

The widths of the columns come from the task and the names of the inputs, so no line waits for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from dlcli.ui import console as consoles
from dlcli.ui.progress.lines import GAP
from dlcli.ui.text import class_name, key
from dlcli.wording import number, printable, shorten

if TYPE_CHECKING:
    from rich.console import Console

    from dlcli.task import TaskSpec

NAMES = 1000  # inputs whose names decide on the width of their column; a longer one moves its own line
VALUE_WIDTH = 12  # -1.23457e-05
TIME_WIDTH = 19  # 2024-01-31 23:00:00
MIN_NAME, MIN_LABEL, MIN_TEXT = 16, 12, 24

_Line = Callable[[Mapping[str, Any]], str]
_Maker = Callable[["Console", "TaskSpec", int], tuple[str, _Line]]


def print_predictions(
    rows: Iterable[Mapping[str, Any]],
    task: TaskSpec,
    inputs: Sequence[str],
    *,
    timed: bool = False,
    intervals: bool = False,
) -> None:
    """Print rows of `Prediction` under one header.

    ``inputs`` are the names of all inputs; ``timed``: whether the rows have a time; ``intervals``: the
    ends of an interval.
    """
    console = consoles.stdout()
    makers: dict[str, _Maker] = {
        "classification": _classes,
        "multilabel": _labels,
        "regression": partial(_values, intervals=intervals),
        "forecast": partial(_values, timed=timed, intervals=intervals),
        "seq2seq": _texts,
        "embedding": _vectors,
    }
    head, line = makers[task.kind](
        console, task, _widest([printable(name) for name in islice(inputs, NAMES)])
    )
    for count, row in enumerate(rows):
        if not count:
            console.print(head, style="dim", soft_wrap=True)
        console.print(line(row), soft_wrap=True)


def _classes(console: Console, task: TaskSpec, name: int) -> tuple[str, _Line]:
    """Name, first class and probability; the remaining width is for the next classes."""
    room, score = console.width, len("probability")
    label = _widest(["label", *map(class_name, task.class_names)])
    label = min(label, max(room // 3, MIN_LABEL))
    name = min(name, max(room - label - score - 2 * len(GAP), MIN_NAME))
    rest = room - name - label - score - 3 * len(GAP)

    def line(row: Mapping[str, Any]) -> str:
        first = [_left(row["input"], name), _left(shorten(printable(row["label"]), label), label)]
        score_of = f"{row['probability']:.4f}".rjust(score)
        others = [f"{class_name(i['label'])} {i['probability']:.4f}" for i in row["top_k"][1:]]
        return GAP.join([*first, score_of, _whole_items(others, rest)]).rstrip()

    heads = [_left("input", name), _left("label", label), "probability"]
    others = ["next classes"] if rest >= len("next classes") else []
    return GAP.join([*heads, *others]).rstrip(), line


def _labels(console: Console, task: TaskSpec, name: int) -> tuple[str, _Line]:
    """Predicted labels, the most probable first; "-" for none."""
    name = min(name, max(console.width // 2, MIN_NAME))
    rest = console.width - name - len(GAP)

    def line(row: Mapping[str, Any]) -> str:
        ranked = sorted(((row["probabilities"][label], label) for label in row["labels"]), reverse=True)
        items = [f"{class_name(label)} {p:.4f}" for p, label in ranked]
        return f"{_left(row['input'], name)}{GAP}{_whole_items(items, rest) or '-'}"

    return f"{_left('input', name)}{GAP}labels, each with its probability"[: console.width], line


def interval_ends(row: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The ends of the interval of each target of a row."""
    if "values" not in row:
        return [(row["low"], row["high"])]
    return [(row["low"][name], row["high"][name]) for name in row["values"]]


def _values(
    console: Console, task: TaskSpec, name: int, *, timed: bool = False, intervals: bool = False
) -> tuple[str, _Line]:
    """One column per target, as many as fit; with ``timed``, the time of each step too.

    With ``intervals`` the ends of its interval follow each target.
    """
    names = [key(target.name) for target in task.targets]
    if intervals:
        names = [column for target in names for column in (target, "low", "high")]
    widths = [max(VALUE_WIDTH, _widest([target])) for target in names]
    step = max(len("step"), len(str(task.horizon))) if task.kind == "forecast" else 0
    fixed = step + len(GAP) + (TIME_WIDTH + len(GAP) if timed else 0) if step else 0
    name = min(name, max(console.width - fixed - widths[0] - len(GAP), MIN_NAME))
    left = console.width - name - fixed
    shown = 0
    for width in widths:
        left -= len(GAP) + width
        # If not all fit, the header ends with how many more there are.
        if left < (0 if shown == len(widths) - 1 else len(GAP) + len("and 99 more")):
            break
        shown += 1
    shown = max(shown, 1)
    more = f"{GAP}and {len(names) - shown} more" if shown < len(names) else ""

    def line(row: Mapping[str, Any]) -> str:
        values = list(row["values"].values()) if "values" in row else [row["value"]]
        if intervals:
            pairs = zip(values, interval_ends(row), strict=True)
            values = [each for value, ends in pairs for each in (value, *ends)]
        cells = [number(v).rjust(w) for v, w in zip(values[:shown], widths, strict=False)]
        at = [_left(row["time"], TIME_WIDTH)] if timed else []
        at += [str(row["step"]).rjust(step)] if step else []
        return GAP.join([_left(row["input"], name), *at, *cells])

    heads = [_right(target, width) for target, width in zip(names[:shown], widths, strict=False)]
    at = [_left("time", TIME_WIDTH)] if timed else []
    at += ["step".rjust(step)] if step else []
    return GAP.join([_left("input", name), *at, *heads]) + more, line


def _vectors(console: Console, task: TaskSpec, name: int) -> tuple[str, _Line]:
    """The first dimensions, as many as fit."""
    width, total = len("-0.1234"), task.embedding_size
    name = min(name, max(console.width // 2, MIN_NAME))
    room = console.width - name - len(GAP)
    shown = min(total, max(1, (room - len(" ...")) // (width + 1)))
    rest = " ..." if shown < total else ""

    def line(row: Mapping[str, Any]) -> str:
        numbers = " ".join(f"{value:{width}.4f}" for value in row["embedding"][:shown])
        return f"{_left(row['input'], name)}{GAP}{numbers}{rest}"

    head = f"embedding, {shown} of {total} dimensions" if rest else "embedding"
    return f"{_left('input', name)}{GAP}{head}"[: console.width].rstrip(), line


def _texts(console: Console, task: TaskSpec, name: int) -> tuple[str, _Line]:
    """Long texts are wrapped next to their inputs."""
    from rich.text import Text

    name = min(name, max(console.width // 3, MIN_NAME))
    room = max(console.width - name - len(GAP), MIN_TEXT)

    def line(row: Mapping[str, Any]) -> str:
        lines = [part.plain.rstrip() for part in Text(printable(row["text"])).wrap(console, room)]
        indent = "\n" + " " * (name + len(GAP))
        return f"{_left(row['input'], name)}{GAP}{indent.join(lines)}".rstrip()

    return f"{_left('input', name)}{GAP}text", line


def _widest(texts: Sequence[str]) -> int:
    """Return the largest width in columns, of the names and the header ``input``."""
    from rich.cells import cell_len

    return max(len("input"), *(cell_len(text) for text in texts)) if texts else len("input")


def _left(text: str, width: int) -> str:
    from rich.cells import cell_len

    shown = printable(text)
    return shown + " " * (width - cell_len(shown))


def _right(text: str, width: int) -> str:
    from rich.cells import cell_len

    return " " * (width - cell_len(text)) + text


def _whole_items(items: Sequence[str], room: int) -> str:
    """Join as many items as fit with commas."""
    from rich.cells import cell_len

    line = ""
    for item in items:
        longer = f"{line}, {item}" if line else item
        if cell_len(longer) > room:
            break
        line = longer
    return line
