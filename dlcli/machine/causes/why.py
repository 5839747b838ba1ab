"""The cause that keeps a kind of device from being used, for errors of other commands."""

from __future__ import annotations

from dlcli.machine.causes.base import Cause, find_causes
from dlcli.machine.facts import read_facts


def why_not(*parts: str) -> Cause | None:
    """Return the most important cause that concerns one of ``parts`` ("cuda", "onnxruntime").

    From files and nvidia-smi alone: under a second, without importing a library.
    """
    causes = find_causes(read_facts())
    return next((c for c in causes if c.part in parts and c.level != "note"), None)
