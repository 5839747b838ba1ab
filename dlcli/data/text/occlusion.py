"""Words of a text, left out."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from dlcli.data.base import Indices, Inputs, Items, Listed
from dlcli.data.occlusion import BATCH, Occlusion, Part, spans
from dlcli.data.text.text_pairs import SEPARATOR
from dlcli.data.text.tokens import encode_all
from dlcli.task import TaskSpec, TextInput

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def occlude_text(items: Items, inputs: Inputs, task: TaskSpec) -> Occlusion:
    """Each word and mark of the text, or several neighbours together where there are many.

    Words are of the text itself, not tokens, so that all tokenizers are explained alike.
    """
    spec = task.input
    assert isinstance(spec, TextInput)
    assert isinstance(items, Listed)
    text = str(items.values[0])
    words = [match.span() for match in _WORD.finditer(text)]
    parts = []
    for first, last in spans(len(words)):
        start, stop = words[first][0], words[last - 1][1]
        parts.append(Part(text[start:stop], "word", (start,), (stop,)))

    def batches() -> Iterator[tuple[Inputs, Indices]]:
        for first in range(0, len(parts), BATCH):
            some = parts[first : first + BATCH]
            texts = [_without(text, part.start[0], part.stop[0]) for part in some]
            yield encode_all(texts, spec).arrays(), np.arange(first, first + len(some), dtype=np.int64)

    return Occlusion(tuple(parts), batches(), "words left out")


def _without(text: str, start: int, stop: int) -> str:
    """The text with a space in place of some of it; the tab between the texts of a pair stays."""
    return text[:start] + (SEPARATOR if SEPARATOR in text[start:stop] else " ") + text[stop:]
