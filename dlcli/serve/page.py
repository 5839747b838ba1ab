"""The page of a server, on ``/``: a model, an input, its prediction. It loads nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dlcli.task import TabularInput
from dlcli.wording import count, plural

if TYPE_CHECKING:
    from dlcli.serve.models import ServedModel
    from dlcli.serve.state import ServerState

_PARTS = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@cache
def _template() -> str:
    return (files("dlcli.serve") / "templates" / "page.html").read_text(encoding="utf-8")


@cache
def policy() -> str:
    """The content security policy: only the page's own style and script, requests to its own server."""
    digests: dict[str, list[str]] = {"style": [], "script": []}
    for kind, text in _PARTS.findall(_template()):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        digests[kind].append(f"'sha256-{digest}'")
    return (
        f"default-src 'none'; style-src {' '.join(digests['style'])}; "
        f"script-src {' '.join(digests['script'])}; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page(state: ServerState) -> str:
    """The HTML, with what it needs to know of the models."""
    known = {"token": state.config.token is not None, "list": list(map(_facts, state.models.all()))}
    # In a script element "</script>" would end it, also in JSON.
    return _template().replace("MODELS", json.dumps(known).replace("<", "\\u003c"), 1)


def _facts(model: ServedModel) -> dict[str, Any]:
    task, card = model.task, model.artifact.card
    classes = plural(task.num_classes, "class") if task.num_classes else ""
    words = [task.kind, classes, card.model.name, f"{count(card.params)} parameters"]
    columns: list[dict[str, Any]] = []
    if isinstance(task.input, TabularInput):
        numbers = {number.source: number for number in task.input.numbers}
        columns = [{"name": name, "text": number.format is not None} for name, number in numbers.items()]
        columns += [{"name": c.name, "values": list(c.values)} for c in task.input.categories]
    return {
        "name": model.name,
        "version": model.version,
        "task": task.kind,
        "input": task.input.kind,
        "columns": columns,
        "facts": " · ".join(word for word in words if word),
    }
