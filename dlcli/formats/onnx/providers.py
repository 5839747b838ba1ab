"""Execution providers of ONNX Runtime: which are requested, and whether the session has them.

A provider whose libraries cannot be loaded is dropped with a line in a log, and the session runs on the
CPU: only `get_providers` tells.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.config.devices import parse_device
from dlcli.errors import DlcliError
from dlcli.formats.onnx.tensorrt import (
    INSTALL,
    TENSORRT,
    check_available,
    load_libraries,
    tensorrt_options,
)

if TYPE_CHECKING:
    from dlcli.formats.onnx.file import OnnxFile

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def providers_for(device: str, content: OnnxFile) -> list[Any]:
    """Return the providers to request for a file. Raises: UsageError; DlcliError where there is none."""
    import onnxruntime

    kind, index = parse_device(device)
    if kind in ("xpu", "mps"):
        raise DlcliError(
            f"--device {device}: ONNX files run on cpu, cuda or tensorrt", hint="--device cpu"
        )
    cuda = CUDA in onnxruntime.get_available_providers()
    if kind == "cuda" and not cuda:
        raise DlcliError(
            f"--device {device}: this ONNX Runtime has no CUDA provider",
            hint="python -m pip install onnxruntime-gpu, or --device cpu",
        )
    # TF32, its default, would move logits by 1e-3 from the model's.
    on_cuda = [(CUDA, {"device_id": index, "use_tf32": 0})]
    if kind == "tensorrt":
        check_available(device, onnxruntime.get_available_providers())
        # Nodes that TensorRT has not stay with CUDA.
        return [(TENSORRT, tensorrt_options(content, index)), *on_cuda, CPU]
    return [*on_cuda, CPU] if cuda and kind in ("auto", "cuda") else [CPU]


def open_session(source: bytes | str, options: Any, providers: Sequence[Any]) -> Any:
    """Open a session. Raises: whatever ONNX Runtime does; its errors share no base class.

    torch is not imported here, so CUDA's libraries that pip installed for it are loaded by name first.
    What that, and a retry on the CPU, print on stdout is left out: `check_providers` says it.
    """
    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()):
        if len(providers) > 1:
            onnxruntime.preload_dlls()
        if providers[0][0] == TENSORRT:
            load_libraries()
        session = onnxruntime.InferenceSession(source, sess_options=options, providers=providers)
    # A kernel that fails later would move the session to the CPU as silently.
    session.disable_fallback()
    return session


def check_providers(
    opened: Sequence[str], requested: Sequence[Any], device: str, path: Path
) -> tuple[str, ...]:
    """Compare the session's providers with those that were requested; return notes.

    A provider that was dropped is a note where the device was chosen automatically. Raises: DlcliError
    with the cause where it was asked for.
    """
    names = [entry if isinstance(entry, str) else entry[0] for entry in requested]
    missing = [name for name in names if name not in opened]
    if not missing:
        return ()
    if missing[0] == TENSORRT:
        raise DlcliError(
            f"--device {device}: ONNX Runtime opens {path} without {TENSORRT}: its libraries, "
            "libnvinfer.so.10 and CUDA's, or the GPU are missing",
            hint=f"{INSTALL}; dlcli info says what is wrong with CUDA",
        )
    from dlcli.machine.causes.why import why_not  # which takes a tenth of a prediction to import

    cause = why_not("onnxruntime", "cuda")
    why = f": {cause.what} ({cause.evidence})" if cause else ": its libraries could not be loaded"
    hint = (cause.hint if cause else None) or "dlcli info says what is wrong"
    if device != "auto":
        raise DlcliError(
            f"--device {device}: ONNX Runtime opens {path} without {missing[0]}{why}", hint=hint
        )
    return (f"{path.name} runs on the CPU, since ONNX Runtime has dropped {missing[0]}{why}; {hint}",)
