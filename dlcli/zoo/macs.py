"""Multiply-adds of a module's matrix products and convolutions, by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(module: nn.Module, inputs: Sequence[torch.Tensor]) -> dict[str, int]:
    """Multiply-adds of one forward pass in the module's mode, by the path of the module that does them.

    What a module's children do is counted there, not again; the module itself is "".
    """
    recurrent: dict[str, int] = {}

    def note(path: str) -> Any:
        def hook(sub: nn.RNNBase, args: Any, output: Any) -> None:
            steps = args[0].data.numel() // sub.input_size  # of all samples; packed ones have a data too
            # Every weight matrix is used once a step; the counter does not know recurrent kernels.
            weights = sum(p.numel() for name, p in sub.named_parameters() if name.startswith("weight"))
            recurrent[path] = recurrent.get(path, 0) + steps * weights

        return hook

    handles = [
        sub.register_forward_hook(note(path))
        for path, sub in module.named_modules()
        if isinstance(sub, nn.RNNBase)
    ]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    root = type(module).__name__
    # The counter counts a multiplication and an addition as two, and each module's children with it.
    whole = {
        "" if name in ("Global", root) else name.removeprefix(f"{root}."): sum(ops.values()) // 2
        for name, ops in counter.get_flop_counts().items()
        if name != "Global"
    }
    whole[""] = counter.get_total_flops() // 2
    own = dict(whole)
    for name, number in whole.items():
        if name:
            above = name.rpartition(".")[0]
            while above and above not in whole:
                above = above.rpartition(".")[0]
            own[above] -= number
    for path, number in recurrent.items():
        own[path] = own.get(path, 0) + number
    return {name: number for name, number in own.items() if number}
