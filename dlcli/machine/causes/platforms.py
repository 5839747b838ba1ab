"""Causes of single platforms: MPS on macOS, libuv on Windows."""

from __future__ import annotations

from collections.abc import Iterator

from dlcli.machine.causes.base import Cause, register_cause
from dlcli.machine.facts import Facts
from dlcli.machine.installed import pip_line


@register_cause("mps")
def mps(facts: Facts) -> Iterator[Cause]:
    """MPS on a Mac that is not available, and why."""
    if facts.platform != "darwin" or not facts.torch.ok or any(d.kind == "mps" for d in facts.devices):
        return
    command, advice = None, ""
    machine, built = facts.system["machine"], facts.torch.details.get("mps_built")
    if machine == "x86_64" and "apple" in str(facts.cpu["model"]).lower():
        what = "this Python is built for Intel and runs under Rosetta, without the GPU"
        evidence = f"{facts.python['executable']} is x86_64 on {facts.cpu['model']}"
        command, advice = "brew install python", "arm64, or python.org's, and a new environment with it"
    elif machine == "x86_64":
        what, evidence = "MPS needs Apple silicon", f"this Mac has {facts.cpu['model']}"
    elif not built:
        what = "this torch is built without MPS"
        evidence = f"torch {facts.torch.version}, mps.is_built() is False"
        command = pip_line(facts.packages.get("dlcli"), "--force-reinstall")
    else:
        what = "torch is built with MPS, and it is not available"
        evidence = facts.no_mps or f"{facts.system['name']}; MPS needs macOS 14 or later, and a GPU"
        command = "softwareupdate --list"
    yield Cause("mps", "warning", what, evidence, command, advice)


@register_cause("libuv")
def libuv(facts: Facts) -> Iterator[Cause]:
    """Windows' official wheels lack libuv, which torchelastic asks for (pytorch/pytorch#178600)."""
    if facts.platform == "win32" and facts.torch.ok and facts.torch.details.get("libuv") is False:
        yield Cause(
            "system",
            "note",
            "several processes (train --devices 2) do not start with this torch on Windows",
            f"torch {facts.torch.version} is built without libuv, and torchelastic asks for it",
            "wsl --install",
            "and train there; a run of one process needs nothing",
        )
