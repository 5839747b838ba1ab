"""Versions of ONNX that a file is written in: operator set, IR version, the runtime it is for."""

import re
from dataclasses import dataclass
from typing import Annotated

from dlcli.errors import UsageError
from dlcli.schema import Frozen
from dlcli.settings import parsed_by, setting

DEFAULT_OPSET = 20
MIN_OPSET, MAX_OPSET = 13, 23
# The newest operator set and IR version of each ONNX Runtime, from the table "ONNX opset support" of
# onnxruntime.ai/docs/reference/compatibility.html. Every later version reads what an earlier one does.
_ONNX_RUNTIME = {
    (1, 6): (13, 7),
    (1, 7): (13, 7),
    (1, 8): (14, 7),
    (1, 9): (15, 8),
    (1, 10): (15, 8),
    (1, 11): (16, 8),
    (1, 12): (17, 8),
    (1, 13): (17, 8),
    (1, 14): (18, 8),
    (1, 15): (19, 8),
    (1, 16): (19, 9),
    (1, 17): (20, 9),
    (1, 18): (21, 10),
    (1, 19): (21, 10),
    (1, 20): (21, 10),
}
_RUNTIME = "onnxruntime"


@dataclass(frozen=True)
class RuntimeVersion:
    """A version of ONNX Runtime, and the newest operator set and IR version that it reads."""

    version: tuple[int, int]
    opset: int
    ir_version: int


def parse_runtime(text: str) -> RuntimeVersion:
    """Parse onnxruntime==1.16 or onnxruntime==1.16.3. Raises: UsageError."""
    match = re.fullmatch(rf"\s*{_RUNTIME}\s*==\s*v?(\d+)\.(\d+)(?:\.\S*)?\s*", text)
    if match is None:
        raise UsageError(
            f"--for {text!r} is not a runtime and its version", hint=f"--for {_RUNTIME}==1.16"
        )
    version = (int(match[1]), int(match[2]))
    oldest, newest = min(_ONNX_RUNTIME), max(_ONNX_RUNTIME)
    if version < oldest:
        raise UsageError(
            f"--for {text}: it reads operator sets below {MIN_OPSET}, which dlcli does not write",
            hint=f"the oldest is {_RUNTIME}=={oldest[0]}.{oldest[1]}",
        )
    return RuntimeVersion(version, *_ONNX_RUNTIME[min(version, newest)])


def oldest_runtime(opset: int) -> str:
    """Return the first ONNX Runtime that has an operator set, as in "ONNX Runtime 1.12"."""
    able = [version for version, (newest, _) in _ONNX_RUNTIME.items() if newest >= opset]
    major, minor = min(able, default=max(_ONNX_RUNTIME))
    return f"ONNX Runtime {major}.{minor}" if able else f"an ONNX Runtime newer than {major}.{minor}"


class OnnxVersions(Frozen):
    """Versions of ONNX"""

    opset: int | None = setting(
        None,
        f"ONNX operator set (default: {DEFAULT_OPSET}, or what --for reads).",
        "--opset",
        ge=MIN_OPSET,
        le=MAX_OPSET,
        advanced=True,
    )
    ir_version: int | None = setting(
        None,
        "IR version of ONNX files (default: the lowest of the operator set).",
        "--ir-version",
        ge=7,
        le=13,
        advanced=True,
    )
    runtime: Annotated[str | None, parsed_by(parse_runtime)] = setting(
        None, "Runtime that reads the ONNX file: onnxruntime==1.16.", "--for", advanced=True
    )

    @property
    def requested_versions(self) -> dict[str, int | str]:
        """What was asked for, by the name of its setting."""
        return {
            name: value
            for name in OnnxVersions.model_fields
            if (value := getattr(self, name)) is not None
        }


def check_runtime(config: OnnxVersions) -> None:
    """Refuse versions that the runtime of ``--for`` does not read. Raises: UsageError."""
    if config.runtime is None:
        return
    known = parse_runtime(config.runtime)
    for flag, value, newest in (
        ("--opset", config.opset, known.opset),
        ("--ir-version", config.ir_version, known.ir_version),
    ):
        if value is not None and value > newest:
            raise UsageError(
                f"{flag} {value}: {config.runtime} reads {newest} at most", hint=f"leave {flag} out"
            )


def target_opset(config: OnnxVersions) -> int:
    """Return the operator set of an export. Raises: UsageError where ``--for`` contradicts it."""
    check_runtime(config)
    if config.opset is not None:
        return config.opset
    if config.runtime is None:
        return DEFAULT_OPSET
    # One below: a release may lack kernels of its newest one (1.15 has none of Reshape-19).
    newest = parse_runtime(config.runtime).opset
    return min(DEFAULT_OPSET, max(MIN_OPSET, newest - 1))
