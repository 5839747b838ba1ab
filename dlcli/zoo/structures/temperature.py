"""Calibrated logits: outputs divided by a temperature, kind "temperature".

args: ``temperature``, above 0; what it was fitted on is for people. No predicted class changes, and no
tensor is added: the weights of a calibrated model are those that it was trained to.

Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from dlcli import transforms
from dlcli.zoo.replay import STRUCTURES


@STRUCTURES.register(transforms.TEMPERATURE)
def replay(module: nn.Module, args: dict[str, Any]) -> None:
    """Divide the outputs. Raises: ValueError where the temperature is not a finite number above 0."""
    temperature = args.get("temperature")
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ValueError(f"a temperature of {temperature!r}, which is not a finite number above 0")

    def divide(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output / temperature

    # A hook, not a layer around it: the tensors keep their names.
    module.register_forward_hook(divide)
