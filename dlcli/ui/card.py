"""The screen of `dlcli info ARTIFACT`: what a model file says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlcli.ui import text
from dlcli.ui.sections import Row, Section, print_sections

if TYPE_CHECKING:
    from dlcli.card import Card, ImageInput

_MOST_CLASSES = 40  # more are counted, not listed; --json has them all
_RESIZE = {
    "crop": "shorter side to {size}, then the centre {height} x {width}",
    "squash": "both sides to {height} x {width}",
}


def print_card(card: Card, *, path: str, format: str, size_bytes: int, sha256: str) -> None:
    """Print the card and the facts of its file on stdout."""
    print_sections(
        [
            Section(card.model.name, _model(card)),
            Section("Input", _input(card.task.input)),
            Section("Classes", _classes(card.task.class_names)),
            Section("Metrics", _metrics(card.metrics)),
            Section("Origin", _origin(card)),
            Section(
                "File",
                [
                    Row("path", path),
                    Row("format", format),
                    Row("size", f"{_size(size_bytes)} ({text.count(size_bytes)} bytes)"),
                    Row("sha256", sha256),
                ],
            ),
        ]
    )


def _model(card: Card) -> list[Row]:
    rows = [Row("task", f"{card.task.kind}, {text.plural(card.task.num_classes, 'class')}")]
    rows.append(Row("parameters", text.count(card.params)))
    if card.model.args:
        rows.append(Row("arguments", _arguments(card.model.args)))
    for number, record in enumerate(card.transforms):
        key = "" if number else "changes"
        rows.append(Row(key, f"{record.kind} {_arguments(record.args)}".strip()))
    return rows


def _input(spec: ImageInput) -> list[Row]:
    channels, height, width = spec.shape
    colour = "grey" if channels == 1 else "RGB"
    resize = _RESIZE[spec.resize].format(size=spec.resize_size, height=height, width=width)
    return [
        Row("shape", f"{channels} x {height} x {width} (channels, height, width), {colour}"),
        Row("resize", f"{resize}, {spec.interpolation}"),
        Row(
            "normalise", f"(x / 255 - mean) / std, mean {_numbers(spec.mean)}, std {_numbers(spec.std)}"
        ),
    ]


def _classes(names: tuple[str, ...]) -> list[Row]:
    shown = ", ".join(text.printable(name) for name in names[:_MOST_CLASSES])
    more = len(names) - _MOST_CLASSES
    return [Row(str(len(names)), f"{shown}, and {text.count(more)} more" if more > 0 else shown)]


def _metrics(metrics: dict[str, dict[str, float]]) -> list[Row]:
    """A row a metric, a column a split."""
    if not metrics:
        return []
    splits = list(metrics)
    widths = [max(len(split), 7) for split in splits]
    head = "  ".join(split.rjust(width) for split, width in zip(splits, widths, strict=True))
    rows = [Row("", head)]
    for name in dict.fromkeys(name for split in splits for name in metrics[split]):
        cells = [text.figure(metrics[s][name]) if name in metrics[s] else "" for s in splits]
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        rows.append(Row(name, line))
    return rows


def _origin(card: Card) -> list[Row]:
    rows = [Row("weights from", card.weights_from)]
    if card.parent:
        rows.append(Row("parent", card.parent))
    if card.epoch is not None:
        rows.append(Row("epoch", str(card.epoch)))
    if card.data is not None:
        rows.append(Row("data", card.data.data))
        if card.data.data_dir:
            rows.append(Row("data folder", card.data.data_dir))
        if card.data.fingerprint:
            rows.append(Row("fingerprint", card.data.fingerprint))
    if card.versions:
        rows.append(Row("versions", ", ".join(f"{name} {v}" for name, v in card.versions.items())))
    return rows


def _arguments(args: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in args.items())


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _size(size_bytes: int) -> str:
    kib = size_bytes / 1024
    return f"{kib:.1f} KiB" if kib < 1024 else f"{kib / 1024:.1f} MiB"
