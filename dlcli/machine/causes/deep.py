"""What ``--deep`` tried and did not work: torch.compile, and sums over processes."""

from __future__ import annotations

from collections.abc import Iterator

from dlcli.machine.causes.base import Cause, register_cause
from dlcli.machine.deep import all_reduce_step
from dlcli.machine.facts import Facts


@register_cause("deep")
def deep(facts: Facts) -> Iterator[Cause]:
    """A step of ``--deep`` failed."""
    sums = {all_reduce_step(backend) for backend in ("gloo", "nccl")}
    for name, step in facts.deep.items():
        if step.error is None:
            continue
        command, advice = None, ""
        if name in sums:
            what = f"several processes do not work here: {name}"
            command, advice = "export GLOO_SOCKET_IFNAME=lo NCCL_DEBUG=INFO", "and run this again"
        else:
            what = f"torch.compile does not work here: {name}"
            if "compiler" in step.error.lower() or "g++" in step.error or "cl.exe" in step.error:
                command, advice = "sudo apt install g++", "torch.compile needs a C++ compiler"
        yield Cause("system", "warning", what, step.error, command, advice)
