"""Programs for phones: Kotlin on Android, Swift on iOS. They are written, not run, and say so.

An ONNX file has to take raw inputs, so that the graph resizes as dlcli does; a Core ML package takes
what Core Graphics has resized.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlcli.card import Card
from dlcli.errors import UsageError
from dlcli.formats.examples.base import Example, render
from dlcli.formats.examples.facts import facts
from dlcli.formats.static_shape import sizes_of
from dlcli.task import ImageInput, TabularInput

_KINDS = ("classification", "multilabel", "regression", "embedding")
_KOTLIN = {"classification": "Pair<String, Float>", "embedding": "FloatArray"}
_SWIFT = {"classification": "(String, Float)", "embedding": "[Float]"}


def _check(card: Card, program: str, *, embedded: bool, tables: bool) -> None:
    """Raises: UsageError for what a short program for phones cannot ask."""
    spec, able = card.task.input, "images and tables" if tables else "images"
    if isinstance(spec, TabularInput) and not tables:
        reason, hint = (
            "its API for Swift has no float64, which the numbers of tables are",
            "leave it out",
        )
    elif card.task.kind not in _KINDS or not isinstance(spec, ImageInput | TabularInput):
        reason, hint = f"this model is for {card.task.kind} of {spec.kind} data", "leave it out"
    elif isinstance(spec, ImageInput) and spec.value_range is not None:
        reason, hint = "this model's images have more than 8 bits", "leave it out"
    elif not embedded:
        reason, hint = "the graph has to prepare its inputs", "add --embed-preprocessing"
    else:
        return
    raise UsageError(f"--example {program} is for {able}: {reason}", hint=hint)


def check_kotlin(card: Card, *, embedded: bool) -> None:
    """Raises: UsageError."""
    _check(card, "android", embedded=embedded, tables=True)


def check_swift(card: Card, *, embedded: bool) -> None:
    """Raises: UsageError."""
    _check(card, "ios", embedded=embedded, tables=False)


def check_coreml(card: Card, *, embedded: bool) -> None:
    """Raises: UsageError."""
    if not isinstance(card.task.input, ImageInput):
        raise UsageError("--example ios for coreml is for images", hint="leave it out")
    _check(card, "ios", embedded=True, tables=False)


def kotlin(path: Path, card: Card) -> str:
    """The program for Android."""
    result = _KOTLIN.get(card.task.kind, "Map<String, Float>")
    mode = "image" if isinstance(card.task.input, ImageInput) else "table"
    return render("onnx.kt", **_values(path, card), result=result, mode=mode)


def swift(path: Path, card: Card) -> str:
    """The program for iOS that uses ONNX Runtime."""
    return render("onnx.swift", **_values(path, card), result=_swift_result(card))


def coreml(path: Path, card: Card) -> str:
    """The program for iOS and macOS that uses Core ML."""
    spec = card.task.input
    assert isinstance(spec, ImageInput)
    fields = ("width", "height", "resize", "resize_size", "mean", "std")
    pixels = {name: getattr(spec, name) for name in fields}
    return render("coreml.swift", **_values(path, card), **pixels, result=_swift_result(card))


def _swift_result(card: Card) -> str:
    return _SWIFT.get(card.task.kind, "[String: Float]")


def _values(path: Path, card: Card) -> dict[str, Any]:
    return {**facts(path, card), "stem": path.stem, "batch": (sizes_of(card) or {}).get("batch", 1)}


ANDROID = Example("kt", kotlin, check_kotlin)
IOS = Example("swift", swift, check_swift)
COREML = Example("swift", coreml, check_coreml)
