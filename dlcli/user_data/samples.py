"""One sample of a user's data set: its inputs by name, and its target.

A sample is a tuple with the target last, or a dict with a target, label or y. Values become texts,
numbers and NumPy arrays: tensors by ``.numpy()``, images of Pillow as uint8 pixels (H, W, C). torch is
never imported here: where it is not loaded, nothing is a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dlcli.errors import DlcliError
from dlcli.pixels.decode import from_pillow

Array = npt.NDArray[Any]
Value = str | Array  # a number is an array ()
TARGET_NAMES = ("target", "label", "y", "labels", "targets", "class")
_SAMPLES = "a sample is (input, target), or a dict of inputs with a target, label or y"


@dataclass(frozen=True)
class Sample:
    """``inputs`` by name, and the target: a text, an array, a tuple of texts, or None where missing.

    ``images`` are the names of the inputs that were images of Pillow.
    """

    inputs: dict[str, Value]
    target: Value | tuple[str, ...] | None
    images: frozenset[str] = frozenset()

    @property
    def structure(self) -> tuple[tuple[str, str], ...]:
        """Name and form of each input; the samples of a data set have the same."""
        return tuple((name, form_of(value)) for name, value in self.inputs.items())

    def describe(self) -> str:
        """The sample in words: ``image uint8 (28, 28, 1), target int64``."""
        parts = [*self.inputs.items(), ("target", self.target)]
        return ", ".join(f"{name} {_describe(value)}" for name, value in parts)

    @property
    def nbytes(self) -> int:
        """Memory of the inputs, in bytes."""
        return sum(len(v) if isinstance(v, str) else v.nbytes for v in self.inputs.values())


def form_of(value: Value) -> str:
    """What must be the same in every sample: "text", "number", or the type of array and its axes."""
    if isinstance(value, str):
        return "text"
    if value.ndim == 0:
        return "number"
    kinds = {"f": "float", "i": "int", "b": "int", "u": "int"}
    name = "uint8" if value.dtype == np.uint8 else kinds[value.dtype.kind]
    return f"{name} array of {value.ndim} axes"


def parse(raw: object, where: str) -> Sample:
    """Take a sample apart. Raises: DlcliError naming ``where`` for one without a target, or of a type
    that is not known.
    """
    if hasattr(raw, "_asdict"):  # a named tuple whose fields may name the target
        fields = raw._asdict()
        raw = fields if any(name in fields for name in TARGET_NAMES) else raw
    if isinstance(raw, Mapping):
        name = next((name for name in TARGET_NAMES if name in raw), None)
        if name is None:
            keys = ", ".join(map(str, raw))
            raise DlcliError(f"{where} has no target: its keys are {keys}", hint=_SAMPLES)
        inputs: object = {key: value for key, value in raw.items() if key != name}
        target = raw[name]
    elif isinstance(raw, tuple | list) and len(raw) > 1:
        inputs, target = list(raw[:-1]), raw[-1]
        if len(inputs) == 1:
            inputs = inputs[0]
    else:
        raise DlcliError(f"{where} has no target: it is {_type(raw)}", hint=_SAMPLES)
    leaves = list(_leaves(inputs, ""))
    if not leaves:
        raise DlcliError(f"{where} has no input besides its target", hint=_SAMPLES)
    images = frozenset(name for name, value in leaves if isinstance(value, Image.Image))
    values = {name: _value(value, f"{where}: {name}") for name, value in leaves}
    return Sample(values, _target(target, where), images)


def _leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    """The values in nested dicts and tuples, named by their keys; "input" where there is no key."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}_{key}" if name else str(key))
    elif isinstance(value, tuple) or (isinstance(value, list) and not _is_numbers(value)):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{name or 'input'}{i}")
    else:
        yield name or "input", value


def _is_numbers(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(each, int | float | list) for each in value)


def _value(value: object, where: str) -> Value:
    if isinstance(value, str):
        return value
    if isinstance(value, Image.Image):
        return from_pillow(value)
    array = _array(value)
    if array is None:
        raise DlcliError(
            f"{where} is {_type(value)}, which dlcli cannot read",
            hint="inputs are tensors, arrays, images of Pillow, numbers or strings",
        )
    if array.dtype.kind not in "fiub":
        raise DlcliError(f"{where} holds {array.dtype}, not numbers")
    return array


def _array(value: Any) -> Array | None:
    """A number, list, array or tensor as an array; None for other objects."""
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        return np.asarray(value.numpy())
    if isinstance(value, bool | int | float | list | np.ndarray | np.generic):
        try:
            return np.asarray(value)
        except ValueError:  # lists of different lengths
            return None
    return None


def _target(value: object, where: str) -> Value | tuple[str, ...] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return tuple(value)
    array = _array(list(value) if isinstance(value, tuple) else value)
    if array is None or array.dtype.kind not in "fiub" or array.ndim > 1:
        what = _type(value) if array is None else f"{array.dtype} {array.shape}"
        raise DlcliError(
            f"{where}: its target is {what}",
            hint="a target is a class (number or string), numbers, or the labels of the sample",
        )
    return array.reshape(()) if array.shape == (1,) else array


def _describe(value: Value | tuple[str, ...] | None) -> str:
    if value is None:
        return "missing"
    if isinstance(value, str | tuple):
        return "text" if isinstance(value, str) else "labels"
    return f"{value.dtype} {value.shape}" if value.ndim else str(value.dtype)


def _type(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
