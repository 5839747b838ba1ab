"""The page that predicts a photo, rows, a text or a series: of a server, or of a folder without one."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from dlcli.card import Card
from dlcli.data.text.text_pairs import columns_of
from dlcli.notation.numbers import PLAIN
from dlcli.task import TabularInput, TextInput
from dlcli.wording import count, plural

_PARTS = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@cache
def template(name: str) -> str:
    """The text of a file of this package's templates."""
    return (files("dlcli.formats.web") / "templates" / name).read_text(encoding="utf-8")


@cache
def digests_of_parts() -> dict[str, list[str]]:
    """For a content security policy: the digests of the page's own "style" and "script"."""
    digests: dict[str, list[str]] = {"style": [], "script": []}
    for kind, text in _PARTS.findall(template("page.html")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        digests[kind].append(f"'sha256-{digest}'")
    return digests


def page(
    title: str, models: Sequence[Mapping[str, Any]], *, token: bool = False, module: str = ""
) -> str:
    """The HTML for models of `facts`.

    They are asked over HTTP, with a ``token`` where the server wants one, or in the page by a JavaScript
    ``module`` with a function ``load``.
    """
    known = {"token": token, "module": module, "list": list(models)}
    # In a script element "</script>" would end it, also in JSON.
    text = template("page.html").replace("MODELS", json.dumps(known).replace("<", "\\u003c"), 1)
    return text.replace("TITLE", html.escape(title))


def facts(name: str, version: str, card: Card) -> dict[str, Any]:
    """What the page shows and asks of a model."""
    task = card.task
    classes = plural(task.num_classes, "class") if task.num_classes else ""
    words = [task.kind, classes, card.model.name, f"{count(card.params)} parameters"]
    columns: list[dict[str, Any]] = []
    if isinstance(task.input, TabularInput):
        numbers = {number.source: number for number in task.input.numbers}
        columns = [
            {"name": name, "text": number.format not in (None, PLAIN)}
            for name, number in numbers.items()
        ]
        columns += [{"name": c.name, "values": list(c.values)} for c in task.input.categories]
    if isinstance(task.input, TextInput) and task.input.pair:
        columns = [{"name": column, "text": True} for column in columns_of(task.input)]
    return {
        "name": name,
        "version": version,
        "task": task.kind,
        "input": task.input.kind,
        "columns": columns,
        "facts": " · ".join(word for word in words if word),
    }
