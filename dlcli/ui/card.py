"""The screen of `dlcli info ARTIFACT`: a model file and its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dlcli import transforms, wording
from dlcli.ui import text
from dlcli.ui.inputs import MOST_ROWS, Tensor, input_sections, parts_of
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.ui.transforms import in_words

if TYPE_CHECKING:
    from dlcli.card import Card
    from dlcli.task import TargetNumber, TaskSpec

_MOST_CLASSES = 40  # more are counted, not listed; --json has them all


def print_card(
    card: Card,
    *,
    path: str,
    format: str,
    size_bytes: int,
    sha256: str,
    verified: bool,
    runs_code: bool = False,
    known: bool = False,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Print the card and the facts of its file on stdout.

    ``verified`` is whether its content matches the digest that it carries, False where it carries none.
    ``runs_code`` is whether opening the file could run code, ``known`` whether this user's dlcli wrote
    it and has run the code that it names; ``facts`` are those of its format.
    """
    task = card.task
    print_sections(
        [
            Section(card.model.name, _model(card)),
            *input_sections(task, *_tensors(card)),
            Section("Labels" if task.kind == "multilabel" else "Classes", _classes(task)),
            Section("Targets: the model's outputs are (value - mean) / std", _targets(task.targets)),
            Section("Metrics", _metrics(card.metrics)),
            Section("Origin", _origin(card)),
            Section(
                "File",
                [
                    Row("path", path),
                    Row("format", format),
                    *(Row(name, fact) for name, fact in (facts or {}).items()),
                    Row("size", f"{wording.size(size_bytes)} ({wording.count(size_bytes)} bytes)"),
                    Row("sha256", sha256),
                    Row("content", "matches its digest" if verified else "carries no digest to check"),
                    Row("opening it", _code(runs_code=runs_code, known=known)),
                ],
            ),
        ]
    )


def _model(card: Card) -> list[Row]:
    rows = [Row("task", _task(card.task)), Row("parameters", wording.count(card.params))]
    if card.model.args:
        pruned = transforms.find_record(card.transforms, transforms.CHANNELS) is not None
        rows.append(Row("before pruning" if pruned else "arguments", _arguments(card.model.args)))
    for number, record in enumerate(card.transforms):
        rows.append(Row("" if number else "changes", in_words(record)))
    return rows


def _tensors(card: Card) -> tuple[list[Tensor], Tensor]:
    """Return the file's input tensors and its output tensor, as its transform records change them."""
    from dlcli.formats import static_shape as fixed
    from dlcli.formats.onnx import embed as onnx_embed
    from dlcli.formats.readable_outputs import has_readable_outputs

    task, sizes = card.task, fixed.sizes_of(card) or {}
    inputs: list[Tensor] = [parts_of(tensor) for tensor in task.input.signature]
    if onnx_embed.takes_raw_inputs(card):
        inputs = list(onnx_embed.raw_inputs(task))
    name, dtype, dims = parts_of(task.output)
    if has_readable_outputs(card) and task.kind != "embedding":
        name = "values" if task.targets else "probabilities"
    entries = [*inputs, (name, dtype, dims)]
    *inputs, output = [(n, t, tuple(sizes.get(str(d), d) for d in dims)) for n, t, dims in entries]
    return inputs, output


def _code(*, runs_code: bool, known: bool) -> str:
    if not runs_code:
        return "runs no code from the file"
    if known:
        return "can run code; your dlcli wrote this file, so --trust is not needed"
    return "can run code, and your dlcli did not write it or has not run that code: needs --trust"


def _task(task: TaskSpec) -> str:
    if task.kind == "forecast":
        what = wording.plural(len(task.targets), "target")
        return f"forecast, the next {wording.plural(task.horizon, 'step')} of {what}"
    if task.kind == "regression":
        return f"regression, {wording.plural(len(task.targets), 'target')}"
    if task.kind == "seq2seq":
        return "seq2seq, text to text"
    if task.kind == "embedding":
        classes = wording.plural(task.num_classes, "class")
        return f"embedding, {task.embedding_size} dimensions, trained on {classes}"
    noun = "label" if task.kind == "multilabel" else "class"
    return f"{task.kind}, {wording.plural(task.num_classes, noun)}"


def _classes(task: TaskSpec) -> list[Row]:
    names = task.class_names
    if not names:
        return []
    rows = [Row(str(len(names)), wording.listed(names, _MOST_CLASSES))]
    if task.thresholds is None:
        return rows
    from dlcli.evaluation.decisions import thresholds_in_words

    return [*rows, Row("thresholds", thresholds_in_words(task))]


def _targets(targets: tuple[TargetNumber, ...]) -> list[Row]:
    rows = [
        Row(
            text.key(target.name),
            f"mean {wording.number(target.mean)}, std {wording.number(target.std)}",
        )
        for target in targets[:MOST_ROWS]
    ]
    if len(targets) > MOST_ROWS:
        rows.append(Row("", f"and {wording.count(len(targets) - MOST_ROWS)} more"))
    return rows


def _metrics(metrics: dict[str, dict[str, float]]) -> list[Row]:
    """Return a row per metric, with a column per split."""
    if not metrics:
        return []
    splits = list(metrics)
    widths = [max(len(split), 8) for split in splits]
    head = "  ".join(split.rjust(width) for split, width in zip(splits, widths, strict=True))
    rows = [Row("", head)]
    for name in dict.fromkeys(name for split in splits for name in metrics[split]):
        cells = [text.figure(metrics[s][name]) if name in metrics[s] else "" for s in splits]
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        rows.append(Row(name, line))
    return rows


def _origin(card: Card) -> list[Row]:
    rows = [Row("weights from", text.from_here(card.weights_from))]
    if card.parent:
        rows.append(Row("parent", text.from_here(card.parent)))
    if card.epoch is not None:
        rows.append(Row("epoch", str(card.epoch)))
    if card.data is not None:
        rows.append(Row("data", text.from_here(card.data.data)))
        if card.data.options:
            rows.append(Row("read with", _arguments(card.data.options)))
        if card.data.data_dir:
            rows.append(Row("data folder", text.from_here(card.data.data_dir)))
        if card.data.fingerprint:
            rows.append(Row("fingerprint", card.data.fingerprint))
    if card.versions:
        rows.append(Row("versions", ", ".join(f"{name} {v}" for name, v in card.versions.items())))
    return rows


def _arguments(args: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in args.items())
