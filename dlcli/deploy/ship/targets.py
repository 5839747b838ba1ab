"""Where a shipped model runs: the files that run there, and whether its latency can be measured here."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from dlcli.config import ShipSettings
from dlcli.config.ship import TargetName
from dlcli.deploy.quantize.methods import cpu_target
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import FORMATS, require_extra


@dataclass(frozen=True)
class Target:
    """A target.

    ``processor`` and ``reduce_range`` are those of `quantize`; with ``half`` a file is in float16 where
    it would be int8 elsewhere. ``formats`` are those of files in float. ``device`` is where latency is
    measured, "" where that is not possible here. ``note`` is what a reader must know of the figures.
    """

    name: TargetName
    processor: Literal["x86", "arm"]
    formats: tuple[str, ...] = ("onnx",)
    half: bool = False
    reduce_range: bool | None = None
    device: str = "cpu"
    own_latency: bool = True  # whether what is measured here is the target's
    note: str = ""

    @property
    def variant(self) -> str:
        """What sets its files apart from those for x86 processors."""
        if self.half:
            return "cuda"
        return "7bit" if self.reduce_range else self.processor.removeprefix("x86")


def target_of(settings: ShipSettings) -> Target:
    """Return the target that the settings name.

    Raises: UsageError for ``--max-latency`` where the latency of the target cannot be known here.
    """
    config = settings.ship
    here = cpu_target()
    target = _target(config.target or ("arm" if here == "arm" else "cpu-x86"))
    if config.judge_here and config.max_latency is None:
        raise UsageError("--judge-here is for --max-latency", hint="--max-latency 2ms --judge-here")
    if config.max_latency is None:
        return target
    if not target.device or not settings.measure.latency:
        why = target.note if not target.device else "--no-latency"
        raise UsageError(
            f"--max-latency {config.max_latency} cannot be judged: {why}", hint="leave --max-latency out"
        )
    if not target.own_latency and not config.judge_here:
        raise UsageError(
            f"--max-latency {config.max_latency} cannot be judged for --target {target.name}: "
            f"{target.note}",
            hint="--judge-here judges it by this machine; or leave it out and measure on the target",
        )
    return target


def _target(name: TargetName) -> Target:
    here = cpu_target()
    elsewhere = f"latency is measured on this {here} machine, not on the target"
    if name == "cpu-x86":
        return Target(name, "x86", own_latency=here == "x86", note=elsewhere if here != "x86" else "")
    if name == "arm":
        return Target(name, "arm", own_latency=here == "arm", note=elsewhere if here != "arm" else "")
    if name == "browser":
        # Of the visitor's processor nothing is known: weights in 7 bits saturate on none.
        note = f"{elsewhere}: onnxruntime-web is slower than ONNX Runtime"
        return Target(name, "x86", reduce_range=True, own_latency=False, note=note)
    if name == "phone":
        return _phone(elsewhere)
    if not _has_cuda():
        note = "no latency: ONNX Runtime finds no CUDA device on this machine"
        return Target(name, "x86", half=True, device="", own_latency=False, note=note)
    return Target(name, "x86", half=True, device="cuda")


def _phone(elsewhere: str) -> Target:
    """ExecuTorch too, where it is installed."""
    formats, note = ["onnx"], elsewhere
    try:
        require_extra(FORMATS.get("executorch"))
        formats.append("executorch")
    except DlcliError as exc:
        note += f"; ONNX alone, for ONNX Runtime Mobile: {exc.message} ({exc.hint})"
    return Target("phone", "arm", tuple(formats), own_latency=False, note=note)


def _has_cuda() -> bool:
    """Whether ONNX Runtime can run a model on a GPU here."""
    import torch

    with suppress(ImportError):
        import onnxruntime

        has_provider = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        return bool(has_provider and torch.cuda.is_available())
    return False
