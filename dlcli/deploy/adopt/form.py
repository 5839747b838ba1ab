"""What a model file of another program says of its input and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "tabular"]


@dataclass(frozen=True)
class Form:
    """The form of a file's input and outputs; None where the file does not say.

    ``batch`` is the only batch size that it takes. Images: ``layout`` of a batch, channels and sides.
    Tables: the number of columns, and ``column_names`` where each is an input of its own.
    ``class_names`` are in the order of the outputs. ``precision`` is that of its weights: float32,
    float16, or int8 where it is quantized. ``raw_pixels``: whole numbers from 0 to 255.
    ``producer`` is the program that wrote it.
    """

    kind: Kind | None = None
    batch: int | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: int | None = None
    height: int | None = None
    width: int | None = None
    columns: int | None = None
    column_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    precision: Literal["float32", "float16", "int8"] = "float32"
    raw_pixels: bool = False
    producer: str = ""
    params: int = 0
