"""A program in Python that predicts with an ONNX file: numpy and onnxruntime, and what the input needs.

Images need pillow, texts with byte pairs or a tokenizer of pretrained weights the tokenizers library.
It reads what it must know from the card in the file's metadata, which every ONNX file of dlcli has.
"""

from __future__ import annotations

from pathlib import Path

from dlcli.card import CARD_KEY, Card
from dlcli.data.text.scripts import UNSPACED_SCRIPTS
from dlcli.errors import UsageError
from dlcli.formats.examples.base import Example, render
from dlcli.formats.onnx.embed import takes_raw_inputs
from dlcli.formats.readable_outputs import has_readable_outputs
from dlcli.formats.static_shape import sizes_of
from dlcli.notation.numbers import PLAIN, NumberFormat
from dlcli.notation.times import is_time_format
from dlcli.task import ImageInput, SeriesInput, TabularInput, TextInput

_TITLES = {
    "image": ("images", "IMAGE ..."),
    "tabular": ("the rows of tables", "TABLE.csv ..."),
    "text": ("texts", "TEXT ... (- reads lines)"),
    "series": ("series", "FILE.ts ... (or .npy, .tsv, .txt)"),
    "forecast": ("what follows a series", "TABLE.csv ..."),
}


def check(card: Card, *, embedded: bool) -> None:
    """Raises: UsageError for what no short program can ask."""
    spec = card.task.input
    if not isinstance(spec, ImageInput | TabularInput | TextInput | SeriesInput):
        raise UsageError(
            "--example python for ONNX is for images, tables, texts and series: what a model of "
            f"{spec.kind} data reads takes more than a short program",
            hint="leave it out",
        )


def program(path: Path, card: Card) -> str:
    """The program. Raises: UsageError as `check`."""
    embedded = takes_raw_inputs(card)
    check(card, embedded=embedded)
    task, spec = card.task, card.task.input
    mode = "forecast" if task.kind == "forecast" else spec.kind
    title, what = _TITLES[mode]
    library = isinstance(spec, TextInput) and spec.tokenizer != "word"
    return render(
        "onnx.py.jinja",
        mode=mode,
        title=title,
        arguments="'FIRST TEXT<tab>SECOND TEXT' ..." if getattr(spec, "pair", False) else what,
        file=path.name,
        key=CARD_KEY,
        kind=task.kind,
        embedded=embedded,
        readable=has_readable_outputs(card),
        thresholds=[] if task.thresholds is None else list(task.thresholds.values),
        length=(sizes_of(card) or {}).get("length"),
        library=library,
        spec=spec,
        imports=", ".join(_imports(mode, library=library)),
        unspaced=ascii(UNSPACED_SCRIPTS),
        formats=_formats(spec) if isinstance(spec, TabularInput) else {},
        times=isinstance(spec, TabularInput)
        and any(is_time_format(number.format or "") for number in spec.numbers),
    )


def _imports(mode: str, *, library: bool) -> list[str]:
    """The modules of the standard library that a program imports."""
    more = {
        "tabular": ("csv", "io", "math", "re", "unicodedata"),
        "forecast": ("csv", "io", "re", "unicodedata"),
        "text": ("re",) if library else ("re", "unicodedata"),
    }
    return sorted(["json", "sys", *more.get(mode, ())])


def _formats(spec: TabularInput) -> dict[str, tuple[str, str, list[tuple[str, str]]]]:
    """Unit, decimal point and patterns of the formats that numbers of the table are written in.

    Each pattern has the sign to remove from a cell that fits it, which separates thousands.
    """
    formats = {}
    for text in dict.fromkeys(number.format or PLAIN for number in spec.numbers):
        form = NumberFormat.of(text)
        if form is None:  # of times
            continue
        own = [(form.pattern, form.thousands)]
        if not form.thousands:  # then the sign that is no decimal point may be one
            sign = "," if form.decimal == "." else "."
            own.insert(0, (NumberFormat(form.decimal, sign).pattern, sign))
        formats[text] = (form.unit, form.decimal, own)
    return formats


PYTHON = Example("py", program, check)
