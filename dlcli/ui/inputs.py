"""The sections of a screen about a model's input and output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.ui import text
from dlcli.ui.sections import Row, Section

if TYPE_CHECKING:
    from dlcli.data.kinds import Facts
    from dlcli.task import TaskSpec, TensorSpec

MOST_ROWS = 30  # columns, channels or targets that are listed; --json has them all


Tensor = tuple[str, str, tuple[int | str, ...]]  # name, type, dimensions


def input_sections(
    task: TaskSpec, inputs: Sequence[Tensor] | None = None, output: Tensor | None = None
) -> list[Section]:
    """Return sections on a task's input: preprocessing and tensors; and on its output.

    ``inputs`` and ``output`` are a file's own tensors, where they differ from the task's.
    """
    from dlcli.data.kinds import kind_of

    description = kind_of(task).describe(task.input)
    tensors = ", ".join(map(_tensor, inputs or [parts_of(tensor) for tensor in task.input.signature]))
    facts = [Row(name, value) for name, value in description.facts]
    rows = [Row("kind", task.input.kind), *facts, Row("tensors", tensors)]
    tables = [Section(title, _first_rows(rows)) for title, rows in description.tables]
    output_row = Row("tensor", _tensor(output or parts_of(task.output)))
    return [Section("Input", rows), *tables, Section("Output", [output_row])]


def parts_of(tensor: TensorSpec) -> Tensor:
    """Return its name, dtype and dimensions."""
    return tensor.name, tensor.dtype, tensor.dims


def _tensor(tensor: Tensor) -> str:
    name, dtype, dims = tensor
    return f"{name} {dtype} ({', '.join(map(str, dims))})"


def _first_rows(facts: Facts) -> list[Row]:
    """Return a row each, at most `MOST_ROWS`, then how many more there are."""
    rows = [Row(text.key(name), value) for name, value in facts[:MOST_ROWS]]
    more = len(facts) - MOST_ROWS
    return rows + ([Row("", f"and {wording.count(more)} more")] if more > 0 else [])
