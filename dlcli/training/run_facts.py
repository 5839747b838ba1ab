"""Facts about a run that are known before its first step, for its record and its report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from dlcli.data.summary import summarize_source
from dlcli.machine import hardware
from dlcli.training.prepare import PreparedRun

MAX_LAYERS = 1000


def run_facts(prepared: PreparedRun) -> dict[str, Any]:
    """Return what the data holds, the layers of the model, and this machine, JSON-ready."""
    cpu = hardware.cpu()
    return {
        "data": summarize_source(prepared.plan.source),
        "layers": list(_layers(prepared.module))[:MAX_LAYERS],
        "machine": {
            "system": hardware.os_name(),
            "cpu": cpu["model"],
            "cores": cpu["usable_cores"],
            "memory_bytes": hardware.memory()["total_bytes"],
        },
    }


def _layers(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield path, class and parameters of each module that has tensors of its own, or no children.

    A tensor that several modules share counts where it comes first. Nothing is computed: a model of the
    user's own may need an input that is not at hand.
    """
    seen: set[int] = set()
    for path, part in module.named_modules():
        own = [(name, p) for name, p in part.named_parameters(recurse=False) if id(p) not in seen]
        seen |= {id(p) for _, p in own}
        if own or not any(part.children()):
            yield {
                "path": path,
                "type": type(part).__name__,
                "shapes": {name: list(p.shape) for name, p in own},
                "params": sum(p.numel() for _, p in own),
            }
