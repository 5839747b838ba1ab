"""ONNX Runtime that does not work, or does without the GPU that torch has."""

from __future__ import annotations

from collections.abc import Iterator

from dlcli.machine.causes.base import Cause, register_cause
from dlcli.machine.facts import Facts

_CUDA = "CUDAExecutionProvider"
_FIRST_WITH_CUDA_13 = "1.27"  # of onnxruntime-gpu on PyPI; those before it are for CUDA 12


@register_cause("onnxruntime")
def fails(facts: Facts) -> Iterator[Cause]:
    """It cannot be imported, or a graph runs wrong."""
    runtime = facts.onnxruntime
    if runtime.error is not None:
        what = f"onnxruntime {runtime.version or ''}".strip() + " does not work"
        command = 'python -m pip install --force-reinstall "onnxruntime" "onnx"'
        yield Cause("onnxruntime", "error", what, runtime.error, command)


@register_cause("onnxruntime-twice")
def twice(facts: Facts) -> Iterator[Cause]:
    """Two distributions of one module: the files of the one installed last lie over the other's."""
    names = facts.onnxruntime.package.distributions
    if len(names) > 1:
        yield Cause(
            "onnxruntime",
            "warning",
            "several builds of ONNX Runtime lie over each other",
            f"{' and '.join(names)} are installed, and all of them are the module onnxruntime",
            f"python -m pip uninstall -y {' '.join(names)} && python -m pip install {names[-1]}",
        )


@register_cause("onnxruntime-cpu")
def cpu_build(facts: Facts) -> Iterator[Cause]:
    """torch has a GPU, ONNX Runtime no provider for it."""
    providers = facts.onnxruntime.details.get("providers")
    gpu = next((d for d in facts.devices if d.kind == "cuda" and d.ok), None)
    if gpu is None or not providers or _CUDA in providers or facts.torch.details.get("hip"):
        return
    names = facts.onnxruntime.package.distributions
    yield Cause(
        "onnxruntime",
        "note",
        "ONNX files run on the CPU: this ONNX Runtime has no CUDA provider",
        f"torch uses {gpu.device}; {', '.join(names)} has {', '.join(providers)}",
        f"python -m pip uninstall -y {' '.join(names)} && python -m pip install {_build_for(facts)}",
    )


@register_cause("onnxruntime-cuda")
def other_cuda(facts: Facts) -> Iterator[Cause]:
    """Its CUDA has another major version than torch's, whose libraries it would load."""
    runtime, torch = facts.onnxruntime.build, facts.torch.build
    theirs, ours = (build.cuda if build else None for build in (torch, runtime))
    if theirs is None or ours is None or theirs.partition(".")[0] == ours.partition(".")[0]:
        return
    yield Cause(
        "onnxruntime",
        "warning",
        "ONNX Runtime and torch are built for different CUDA versions",
        f"onnxruntime {facts.onnxruntime.version} needs CUDA {ours}, torch brings {theirs}: "
        "without its libraries the CUDA provider is dropped, and ONNX files run on the CPU",
        f"python -m pip install --force-reinstall {_build_for(facts)}",
    )


def _build_for(facts: Facts) -> str:
    """The requirement of an ONNX Runtime for torch's CUDA."""
    cuda = facts.torch.build.cuda if facts.torch.build else None
    bound = "<" if cuda and cuda.startswith("12.") else ">="
    return f'"onnxruntime-gpu{bound}{_FIRST_WITH_CUDA_13}"'
