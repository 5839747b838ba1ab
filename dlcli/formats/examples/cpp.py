"""Programs in C++: ONNX Runtime's API for an ONNX file, AOTInductor's loader for its package.

An ONNX file with embedded preprocessing is asked about a photo or the cells of a row, every other
file about arrays that are prepared as the model takes them. Each row becomes a line of JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dlcli import transforms
from dlcli.card import Card
from dlcli.errors import UsageError
from dlcli.formats.examples.base import Example, render
from dlcli.formats.examples.facts import facts
from dlcli.formats.onnx.embed import raw_inputs, takes_raw_inputs
from dlcli.formats.static_shape import sizes_of
from dlcli.task import ImageInput, TabularInput

_NPY = {"float32": "<f4", "float64": "<f8", "int64": "<i8", "uint8": "|u1"}
_ONNX = {"float32": "FLOAT", "float64": "DOUBLE", "int64": "INT64", "uint8": "UINT8", "string": "STRING"}


def check(card: Card, *, embedded: bool) -> None:
    """Raises: UsageError for translation, which asks the model word by word."""
    if card.task.kind == "seq2seq":
        raise UsageError(
            "--example cpp: a translation asks the model word by word, more than a short program does",
            hint="leave cpp out",
        )


def onnx_program(path: Path, card: Card) -> str:
    """The program for an ONNX file."""
    spec, embedded = card.task.input, takes_raw_inputs(card)
    mode, arguments = "arrays", ""
    if embedded and isinstance(spec, ImageInput) and spec.value_range is None:
        mode, arguments = "image", "PHOTO.ppm" if spec.channels == 3 else "PHOTO.pgm"
    elif embedded and isinstance(spec, TabularInput):
        mode, arguments = "table", "COLUMN=VALUE ..."
    tensors = _tensors(card, embedded=embedded)
    return render(
        "onnx.cpp",
        **_common(path, "predict_onnx.cpp", card, tensors, arguments),
        mode=mode,
    )


def aoti_program(path: Path, card: Card) -> str:
    """The program for an AOTInductor package."""
    machine = transforms.find_record(card.transforms, "aoti")
    facts = {} if machine is None else machine.args
    return render(
        "aoti.cpp",
        **_common(path, "predict_aoti.cpp", card, _tensors(card, embedded=False), ""),
        torch=facts.get("torch", ""),
        device=facts.get("device", "cpu"),
    )


def _tensors(card: Card, *, embedded: bool) -> list[dict[str, Any]]:
    """Name, type and sizes of the file's inputs."""
    task, sizes = card.task, sizes_of(card) or {}
    inputs: Iterable[tuple[str, str, tuple[int | str, ...]]]
    inputs = raw_inputs(task) if embedded else ((t.name, t.dtype, t.dims) for t in task.input.signature)
    return [
        {
            "name": name,
            "dtype": dtype,
            "dims": [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in dims],
            "npy": _NPY.get(dtype, ""),
            "onnx": _ONNX[dtype],
        }
        for name, dtype, dims in inputs
    ]


def _common(
    path: Path, program: str, card: Card, tensors: list[dict[str, Any]], arguments: str
) -> dict[str, Any]:
    """What both programs are told of a model."""
    spec = card.task.input
    prepared = "encoded, scaled and padded by the numbers in the card: dlcli export --sidecar"
    if isinstance(spec, ImageInput):
        mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (spec.mean, spec.std))
        prepared = f"(pixels / 255 - mean) / std, mean {mean}, std {std}"
    return {
        **facts(path, card),
        "program": program,
        "arguments": arguments or " ".join(f"{tensor['name']}.npy" for tensor in tensors),
        "inputs": tensors,
        "prepared": prepared,
        "image": isinstance(spec, ImageInput) and not takes_raw_inputs(card),
    }


ONNX = Example("cpp", onnx_program, check)
AOTI = Example("cpp", aoti_program, check)
