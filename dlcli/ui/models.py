"""The screens of `dlcli models`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlcli import wording
from dlcli.ui import console as consoles
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.ui.tables import print_comparison

if TYPE_CHECKING:
    from dlcli.zoo.summary import Summary

_MOST_NAMES = 100  # timm has a thousand


def print_models(
    rows: Sequence[Mapping[str, Any]],
    families: Mapping[str, Sequence[str]],
    cached: Mapping[str, int],
    sentences: Mapping[str, str],
) -> None:
    """Print the models by kind of data, with parameters at typical sizes; then those of libraries.

    ``cached`` are bytes of the weights that need no download, by name.
    """
    sections = []
    for kind in dict.fromkeys(str(row["kind"]) for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        width = max(len(wording.count(row["params"])) for row in own)
        lines = [
            Row(row["name"], f"{wording.count(row['params']).rjust(width)}  {row['summary']}")
            for row in own
        ]
        sections.append(Section(f"{kind}: parameters for {sentences[kind]}", lines))
    for title, names in families.items():
        if names:
            shown = ", ".join(names[:_MOST_NAMES])
            more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
            lines = [Row("", shown + more)]
            own_files = [f"{name} ({wording.size(cached[name])})" for name in names if name in cached]
            if own_files:
                lines.append(Row("", f"weights in the cache: {', '.join(own_files)}"))
            sections.append(Section(f"image: {len(names):,} names of {title}", lines))
    print_sections(sections)


def print_model(facts: Mapping[str, Any], recipe: Mapping[str, Any], summary: Summary) -> None:
    """Print one model: inputs, output, arguments, recipe and layers."""
    inputs = "; ".join(f"{name} {dtype} ({_dims(dims)})" for name, dtype, dims in facts["input"])
    rows = [
        Row(
            "data",
            f"{facts['kind']} (also: {', '.join(k for k in facts['kinds'] if k != facts['kind'])})"
            if len(facts["kinds"]) > 1
            else str(facts["kind"]),
        ),
        Row("task", str(facts["task"])),
        Row("input", inputs),
        Row("output", f"({_dims(facts['output'])})"),
        Row("parameters", wording.count(summary.params)),
        Row("multiply-adds", wording.count(summary.macs)),
        Row("weights", _weights(facts["weights"], required=facts["weights_required"])),
    ]
    arguments = [Row(name, str(value)) for name, value in facts["args"].items()]
    settings = [
        Row(f"{group}.{name}", str(value))
        for group, values in recipe.items()
        for name, value in values.items()
    ]
    print_sections(
        [
            Section(str(facts["name"]), rows),
            Section("Arguments (--set model.args.NAME=VALUE)", arguments),
            Section("Recipe: the model's own defaults of settings", settings),
        ]
    )
    table = [
        [layer.path, layer.type, _dims(layer.output_shape), wording.count(layer.params)]
        for layer in summary.layers
    ]
    consoles.stdout().print()
    print_comparison("layers", ["layer", "type", "output shape", "parameters"], table)


def _weights(facts: Mapping[str, Any] | None, *, required: bool) -> str:
    """Whether there are published weights, how large they are, and where."""
    if required:
        return "those that --weights names: a folder, or OWNER/NAME of the Hugging Face hub"
    if facts is None:
        return "none are published"
    size = "" if facts["bytes"] is None else f", {wording.size(facts['bytes'])}"
    place = (
        f"in the cache: {facts['cached']}" if facts["cached"] else f"not in the cache: {facts['url']}"
    )
    return f"{facts['label']}{size}, {place}"


def _dims(dims: Sequence[Any]) -> str:
    return " x ".join(str(dim) for dim in dims) or "1"
