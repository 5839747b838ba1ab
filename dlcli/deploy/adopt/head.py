"""The output of a file that is adopted, of several; one number for two classes as an output for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.runs.folder import as_typed

# What the one number of a model for two classes is: that of the second class.
Single = Literal["logit", "probability"]

_USUAL = ("probabilities", "logits")


def choose_output(
    outputs: Mapping[str, npt.NDArray[Any]], count: int, requested: str | None, path: Path
) -> tuple[str, str]:
    """The name of the output with ``count`` numbers a sample, and why it is that one of several.

    They are told apart by ``requested``, else by the names "probabilities" and "logits", else by their
    sizes. Raises: UsageError for an unknown name, DlcliError where none or several could be it.
    """
    shown = ", ".join(f"{name} {array.shape}" for name, array in outputs.items() if name)
    if requested is not None:
        if requested not in outputs or not requested:
            raise UsageError(
                f"--output-name {requested}: {path} gives {shown or 'one tensor without a name'}",
                hint=nearest(requested, [*outputs]) if shown else "leave it out",
            )
        return requested, ""
    sizes = {name: array.size // len(array) for name, array in outputs.items() if 0 < array.ndim <= 2}
    if len(outputs) == 1 and sizes:
        return next(iter(sizes)), ""
    named = [name for name in sizes if name in _USUAL]
    if len(named) == 1:
        return named[0], f"of its outputs, {shown}, it is {named[0]}, by its name (--output-name)"
    for size in (count, 1) if count == 2 else (count,):
        fitting = [name for name, own in sizes.items() if own == size]
        if len(fitting) == 1:
            why = (
                f"the only one with a number for each of {count}" if size == count else "for two classes"
            )
            return fitting[0], f"of its outputs, {shown}, it is {fitting[0]}, {why} (--output-name)"
    if not sizes:
        raise DlcliError(
            f"{path} gives {shown or next(iter(outputs.values())).shape} for random samples, and a card "
            "describes one tensor (batch, outputs)",
            hint="export a model whose forward gives one row of numbers a sample",
        )
    raise DlcliError(
        f"{path} gives several tensors, and {count} classes or columns do not tell which it is: {shown}",
        hint=f"dlcli adopt {as_typed(path)} --output-name NAME",
    )


def two_outputs(outputs: npt.NDArray[np.float32], single: Single) -> npt.NDArray[np.float32]:
    """Numbers (n, 1) of the second class as outputs (n, 2) of both: logits, or probabilities."""
    first = np.zeros_like(outputs) if single == "logit" else 1 - outputs
    return np.concatenate([first, outputs], axis=1)


def in_words(single: Single, outputs: npt.NDArray[np.float32], class_name: str) -> str:
    """What the one number of each sample is taken for."""
    order = "adopt --classes orders them"
    text = f"its one number is the {single} of {class_name}, the second class ({order})"
    if single == "logit" and outputs.min() >= 0 and outputs.max() <= 1:
        text += (
            "; on random inputs it lies between 0 and 1, and no sigmoid gives it: is it a probability?"
        )
    return text
