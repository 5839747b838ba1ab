"""The screen of `dlcli adopt`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlcli.runs.folder import as_typed
from dlcli.ui.tables import print_key_values
from dlcli.wording import listed

if TYPE_CHECKING:
    from dlcli.deploy.adopt.adopt import Adopted


def print_adopted(result: Adopted) -> None:
    """Print the copy, what it takes and gives, what was assumed, and what can be done with it."""
    task = result.file.card.task
    names = task.class_names or tuple(target.name for target in task.targets)
    rows = [
        ("file", str(result.file.path)),
        ("input", f"{task.input.kind}, {' x '.join(map(str, task.input.shape))}"),
        (task.kind, listed(names, 6)),
        *(("assumed", text) for text in result.assumed),
        *(("note", text) for text in result.notes),
        ("next", f"dlcli predict {as_typed(result.file.path)} INPUT"),
    ]
    print_key_values("adopted", rows)
