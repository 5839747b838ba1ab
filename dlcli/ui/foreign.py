"""The screen of `dlcli info FILE` for a model file of another program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.deploy.adopt.examine import operators_in_words
from dlcli.ui.sections import Row, Section, print_sections

if TYPE_CHECKING:
    from dlcli.deploy.adopt.examine import Examined
    from dlcli.formats.base import ModelFile


def print_foreign(file: ModelFile, examined: Examined) -> None:
    """Print the graph, the file, and what `adopt` needs to give it a card."""
    graph = [
        Row("producer", examined.producer or "not said"),
        *_rows("input", [str(tensor) for tensor in examined.inputs]),
        *_rows("output", [str(tensor) for tensor in examined.outputs]),
        *(Row(name, fact) for name, fact in examined.facts.items()),
    ]
    if examined.params is not None:
        graph.append(Row("parameters", wording.count(examined.params)))
        graph.append(Row("operators", operators_in_words(examined.operators)))
    needs = (
        [Row("no card", examined.refused)] if examined.refused else _rows("adopt needs", examined.needs)
    )
    print_sections(
        [
            Section(file.path.name, graph if examined.inputs or examined.outputs else []),
            Section(
                "File",
                [
                    Row("path", str(file.path)),
                    Row("format", f"{file.format.name}, without a dlcli card"),
                    Row("size", f"{wording.size(file.size)} ({wording.count(file.size)} bytes)"),
                    Row("sha256", file.sha256),
                ],
            ),
            Section("To use it", [*needs, Row("next", examined.next_command, is_command=True)]),
        ]
    )


def _rows(key: str, values: list[str] | tuple[str, ...]) -> list[Row]:
    """A row each, of which the first has the key."""
    return [Row("" if number else key, value) for number, value in enumerate(values)]
