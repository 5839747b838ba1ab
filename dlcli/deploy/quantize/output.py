"""Files that `quantize` writes: their names, where they go, and their final rename."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dlcli import transforms
from dlcli.compress.quantize.base import Backend, method_of
from dlcli.deploy.export import check_target, staging_folder
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import FORMATS, Format, read_card, recognize
from dlcli.formats.publish import move, publish
from dlcli.runs.folder import run_of

_SUFFIX = {"onnxruntime": ".onnx", "torch": ".safetensors"}
_FORMAT = {"onnxruntime": "onnx", "torch": "safetensors"}


def format_of(backend: Backend) -> Format:
    """Return the format of the files that a backend runs."""
    return FORMATS.get(_FORMAT[backend])


def file_name(source: Path, method: str, backend: Backend, bits: int) -> str:
    """Return the name of a quantized file: best.int8-static.onnx, best.fp16.safetensors."""
    tag = method_of(method, backend).tag.format(bits=bits)
    return f"{source.stem}.{tag}{_SUFFIX[backend]}"


def check_output(source: Path, target: Path, backend: Backend) -> None:
    """Refuse to replace anything but an older quantized model. Raises: UsageError."""
    check_target(source, target, format_of(backend))
    if not target.exists():
        return
    is_quantized = False
    with suppress(DlcliError):
        is_quantized = not transforms.is_float(read_card(target))
    if not is_quantized:
        raise UsageError(
            f"{target} exists and is no quantized model", hint="choose another name: --output"
        )


def publish_quantized(staged: Path, target: Path) -> None:
    """Rename a file to its target, on any file system."""
    with staging_folder(target) as folder:
        publish(move(recognize(staged), folder / target.name), target)


def plots_folder(path: Path) -> Path:
    """Return the folder for plots of a model file: that of its run, else the folder of the file."""
    run = run_of(path)
    return path.parent if run is None else run.plots
