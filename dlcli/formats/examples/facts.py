"""What programs in every language are told of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlcli.card import Card
from dlcli.formats.onnx.postprocess import output_name
from dlcli.formats.readable_outputs import has_readable_outputs
from dlcli.task import ImageInput, TabularInput


def facts(path: Path, card: Card) -> dict[str, Any]:
    """Values of the templates: the file, its columns or channels, its output and what that means."""
    task, spec = card.task, card.task.input
    table = spec if isinstance(spec, TabularInput) else TabularInput.model_construct()
    limits = [] if task.thresholds is None else list(task.thresholds.values)
    if task.kind == "multilabel" and not limits:
        limits = [0.5] * task.num_classes
    readable = has_readable_outputs(card)
    return {
        "file": path.name,
        "kind": task.kind,
        "channels": spec.channels if isinstance(spec, ImageInput) else 0,
        "numbers": [number.source for number in table.numbers],
        "words": [column.name for column in table.categories],
        "times": any("%" in (number.format or "") for number in table.numbers),
        "names": [target.name for target in task.targets]
        or (task.class_names if task.kind != "embedding" else ()),
        "targets": bool(task.targets),
        "means": [0.0 if readable else target.mean for target in task.targets],
        "stds": [1.0 if readable else target.std for target in task.targets],
        "thresholds": limits,
        "readable": readable,
        "output": output_name(task, readable=readable),
    }
