"""TorchScript: a traced or scripted module, which also runs in C++. torch calls it deprecated."""

from __future__ import annotations

import contextlib
import copy
import io
import linecache
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dlcli.card import CARD_KEY, Card
from dlcli.errors import DlcliError
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime, adopting
from dlcli.formats.static_shape import Sizes
from dlcli.formats.torch_export import example_inputs, module_to_export, noise_batch
from dlcli.formats.torch_program import Program, TorchProgram, open_program
from dlcli.formats.zip_archive import card_in, check_whole, holds, members, write_in_memory
from dlcli.transforms import ONE_BRANCH
from dlcli.trust import names_code, remember
from dlcli.wording import first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dlcli.config import ExportConfig

NAME = "torchscript"

# Batches and lengths at which the outputs must be the model's.
_CHECKED_SHAPES = ((1, 1), (3, 11), (7, 4))
_TOLERANCE = 1e-4  # of the largest output
_HALF_TOLERANCE = 5e-3


def write_torchscript(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Trace the source's module or compile its code, whichever gives the model's outputs.

    Tracing follows one path through the code; where torch warns that another input might take another
    path, compiled code is preferred, and where that fails, the card names these lines of the code.
    Raises: DlcliError when neither gives the model's outputs.
    """
    import torch

    module, card, sizes = module_to_export(source, config)
    module = module.cpu()
    with torch.no_grad(), _without_deprecations():
        script, method, lines = _trace_or_script(module, card, sizes, half=config.half)
        card = card.with_record(NAME, by=method)
        if lines:
            card = card.with_record(ONE_BRANCH, lines=lines)
        save_script(script, card, path)
    remember(path)


def save_script(script: Any, card: Card, path: Path) -> None:
    """Write a program with its card and a digest. Raises: OSError."""
    extra = {CARD_KEY: card.to_json()}
    with _without_deprecations():
        write_in_memory(path, lambda file: _save(script, extra, file))


def _save(script: Any, extra: dict[str, str], file: BinaryIO) -> None:
    """Save without source locations of this machine and the example inputs of the trace."""
    import torch

    archive = io.BytesIO()
    torch.jit.save(script, archive, _extra_files=extra)
    archive.seek(0)
    reader = torch._C.PyTorchFileReader(archive)
    writer = torch._C.PyTorchFileWriter(file)
    # The writer adds the container's own records by itself.
    left_out = ("version", "byteorder", ".data/", "traced_inputs")
    for name in reader.get_all_records():
        if not name.startswith(left_out) and not name.endswith(".debug_pkl"):
            data = reader.get_record(name)
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()


def _trace_or_script(
    module: nn.Module, card: Card, sizes: Sizes | None, *, half: bool
) -> tuple[Any, str, list[str]]:
    """The module as TorchScript; "trace" or "script"; the lines of the user's that a trace went one way.

    Raises: DlcliError.
    """

    def attempt(make: Callable[[], Any]) -> tuple[Any, str]:
        """The result of ``make``, and what is wrong with it."""
        try:
            script = make()
        except Exception as exc:  # the compiler and the model's code may raise anything
            return None, first_line(exc)
        return script, _difference(script, module, card, sizes, half=half)

    branches: list[warnings.WarningMessage] = []
    example = example_inputs(card, sizes)
    traced, trace_error = attempt(lambda: _trace(module, example, branches))
    if not trace_error and not branches:
        return traced, "trace", []
    scripted, script_error = attempt(lambda: _compile(module, example))
    if not script_error:
        return scripted, "script", []
    if not trace_error:
        return traced, "trace", _lines(branches) if names_code(card.model.name) else []
    raise DlcliError(
        f"{card.model.name} cannot be written as TorchScript: trace: {trace_error}; "
        f"script: {script_error}",
        hint="export it as pt2 or onnx",
    )


def _trace(
    module: nn.Module, example: tuple[torch.Tensor, ...], branches: list[warnings.WarningMessage]
) -> Any:
    """The traced module; ``branches`` gets torch's warnings of a tensor's value in Python's hands."""
    import torch

    jit: Any = torch.jit  # not typed
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", jit.TracerWarning)
        # Its own check compares bit by bit and with the example's shapes alone.
        traced = jit.trace(module, example, check_trace=False)
    branches += [w for w in caught if "Converting a tensor to a Python" in str(w.message)]
    return traced


def _compile(module: nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    """The scripted module; of one output without the hook for several, which no compiler reads."""
    import torch

    from dlcli.zoo.user_models import single_output

    if isinstance(module.forward(*example), torch.Tensor):
        module = copy.deepcopy(module)
        for key in [key for key, hook in module._forward_hooks.items() if hook is single_output]:
            del module._forward_hooks[key]
    return torch.jit.script(module)


def _lines(branches: Sequence[warnings.WarningMessage]) -> list[str]:
    """The lines of code that the warnings are about, as "net.py line 3: if x.sum() > 0:"."""
    places = dict.fromkeys((Path(w.filename), w.lineno) for w in branches)
    texts = ((path, line, linecache.getline(str(path), line).strip()) for path, line in places)
    return [f"{path.name} line {line}: {text}" for path, line, text in texts]


def _difference(script: Any, module: nn.Module, card: Card, sizes: Sizes | None, *, half: bool) -> str:
    """How the outputs differ from the model's at several batches and lengths; "" if they do not."""
    batches = (
        [noise_batch(card, n, length, seed=n) for n, length in _CHECKED_SHAPES]
        if sizes is None
        else [example_inputs(card, sizes, seed=seed) for seed in (1, 2)]
    )
    for batch in batches:
        expected = module(*batch)
        at = f"at batch {len(batch[0])}"
        try:
            outputs = script(*batch)
        except Exception as exc:  # an operator may refuse another shape in any way
            return f"it fails {at}: {str(exc).strip().splitlines()[-1]}"
        if outputs.shape != expected.shape:
            return (
                f"its outputs are {tuple(outputs.shape)} {at}, and the model's {tuple(expected.shape)}"
            )
        largest = float((outputs - expected).abs().max())
        allowed = (_HALF_TOLERANCE if half else _TOLERANCE) * max(1.0, float(expected.abs().max()))
        if not largest <= allowed:
            return f"its outputs differ by {largest:.3g} {at}"
    return ""


def read_card(path: Path) -> Card:
    """The card among the archive's extra files; nothing of it is run."""
    return card_in(path, NAME, adopting(path))


def open_torchscript(file: ModelFile, runtime: Runtime) -> TorchProgram:
    """The module on the device. Loading may run code of the file. Raises: DlcliError."""
    from dlcli.zoo.device import resolve_device

    _ = file.card  # a file without one is of no use, whatever else is wrong with it
    return open_program(file, resolve_device(runtime.device), runtime, load_script)


def load_script(path: Path, device: torch.device) -> Program:
    """The module of a file. It may run code of the file, and raises whatever that or torch does."""
    import torch

    jit: Any = torch.jit  # not typed
    with _without_deprecations():
        module: Program = jit.load(path, map_location=device).eval()
    return module


def with_forward(program: Any, source: str) -> Any:
    """A program whose forward is the TorchScript ``source``, which calls another as self.program."""
    import torch

    jit: Any = torch.jit  # not typed
    around: Any = torch.nn.Module()
    around.program = program
    with _without_deprecations():
        scripted = jit.script(around)
    scripted.define(source)
    return scripted


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """Ignore torch's warning, at each call, that TorchScript is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=FutureWarning)
        yield


def _sniff(path: Path) -> bool:
    return holds(members(path), ["constants.pkl", "code/"])


FORMATS.register(NAME)(
    Format(
        name=NAME,
        suffix=".torchscript",
        sniff=_sniff,
        read_card=read_card,
        open=open_torchscript,
        write=write_torchscript,
        verify=check_whole,
        options=frozenset({"dynamic", "half", "softmax"}),
        runs_code=True,
        adoptable=True,
    )
)
