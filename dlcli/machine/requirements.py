"""What ``--require`` can ask for: devices, number types, instruction sets, backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlcli.machine.causes.base import Cause
from dlcli.machine.deep import all_reduce_step, compile_step
from dlcli.machine.facts import Facts

DEVICE_KINDS = ("cpu", "cuda", "mps", "xpu")
# Without these a CPU computes bfloat16 in float32 and rounds.
_BF16 = ("AVX512-BF16", "AMX-BF16", "BF16")
_INSTRUCTIONS = {
    "avx2": ("AVX2",),
    "avx512": ("AVX512",),
    "vnni": ("AVX512-VNNI", "AVX-VNNI"),
    "amx": ("AMX-BF16", "AMX-INT8"),
}
DEEP = ("compile", "all-reduce")
REQUIREMENTS = (*DEVICE_KINDS, "bf16", *_INSTRUCTIONS, "gloo", "nccl", *DEEP)


@dataclass(frozen=True)
class Missing:
    """Why a requirement is not met, and the way out where one is known."""

    reason: str
    hint: str | None = None


def is_known(wanted: str) -> bool:
    """Whether a requirement has a name of `REQUIREMENTS`, or is a device with its index."""
    kind, colon, index = wanted.partition(":")
    return wanted in REQUIREMENTS or (bool(colon) and kind in ("cuda", "xpu") and index.isdigit())


def missing(facts: Facts, causes: Sequence[Cause], wanted: str) -> Missing | None:
    """Why this machine does not have something; None when it has it, and it works."""
    if wanted.partition(":")[0] in DEVICE_KINDS:
        return _device(facts, causes, wanted)
    if wanted in _INSTRUCTIONS:
        names = _INSTRUCTIONS[wanted]
        has = facts.cpu["instruction_sets"]
        if set(names) & set(has):
            return None
        return Missing(f"{facts.cpu['model']} has {', '.join(has) or 'no known instruction set'}")
    if not facts.torch.ok:
        return Missing("torch does not work", _hint(causes, "torch"))
    return _CHECKS[wanted](facts)


def _device(facts: Facts, causes: Sequence[Cause], wanted: str) -> Missing | None:
    devices = [device for device in facts.devices if wanted in (device.kind, device.device)]
    if any(device.ok for device in devices):
        return None
    if devices:
        reasons = "; ".join(f"{device.device}: {device.reason}" for device in devices)
        return Missing(reasons, _hint(causes, devices[0].device))
    if not facts.torch.ok:
        return Missing("torch does not work, so there is none", _hint(causes, "torch"))
    kind = wanted.partition(":")[0]
    cause = next((cause for cause in causes if cause.part == kind), None)
    if cause is not None:
        evidence = f" ({cause.evidence})" if cause.evidence else ""
        return Missing(cause.what + evidence, cause.hint)
    return Missing(f"torch finds no such device, only {', '.join(d.device for d in facts.devices)}")


def _hint(causes: Sequence[Cause], part: str) -> str | None:
    return next((cause.hint for cause in causes if cause.part == part), None)


def _bf16(facts: Facts) -> Missing | None:
    device = next((device for device in facts.devices if device.device == facts.best), None)
    autocast = (
        next((op for op in device.operations if op["name"] == "autocast"), None) if device else None
    )
    if device is None or autocast is None:
        return Missing(f"{facts.best}: {device.reason if device else 'it was not tried'}")
    if not autocast["ok"]:
        return Missing(f"{facts.best}: {autocast['reason']}")
    if autocast["dtype"] != "bfloat16":
        return Missing(f"{facts.best} ({device.name}) has no bfloat16, only {autocast['dtype']}")
    if device.kind == "cpu" and not set(_BF16) & set(facts.cpu["instruction_sets"]):
        return Missing(f"{device.name} has no instructions for bfloat16 ({', '.join(_BF16)})")
    return None


def _gloo(facts: Facts) -> Missing | None:
    return None if facts.torch.details.get("gloo") else Missing("this torch is built without gloo")


def _nccl(facts: Facts) -> Missing | None:
    return None if facts.torch.details.get("nccl") else Missing("this torch is built without NCCL")


def _compile(facts: Facts) -> Missing | None:
    return _step(facts, compile_step(facts.best.partition(":")[0]))


def _all_reduce(facts: Facts) -> Missing | None:
    return _step(facts, all_reduce_step("nccl" if facts.best.startswith("cuda") else "gloo"))


def _step(facts: Facts, name: str) -> Missing | None:
    step = facts.deep.get(name)
    if step is None:
        return Missing(f"{name}: there is nothing to try it with")
    return None if step.error is None else Missing(f"{name}: {step.error}")


_CHECKS: dict[str, Callable[[Facts], Missing | None]] = {
    "bf16": _bf16,
    "gloo": _gloo,
    "nccl": _nccl,
    "compile": _compile,
    "all-reduce": _all_reduce,
}
