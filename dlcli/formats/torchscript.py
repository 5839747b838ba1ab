"""TorchScript: a traced or scripted module, which also runs in C++. torch calls it deprecated."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dlcli.card import CARD_KEY, Card
from dlcli.config import ExportConfig
from dlcli.errors import DlcliError
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime
from dlcli.formats.static_shape import Sizes
from dlcli.formats.torch_program import TorchFile, batch_of, example_of, shipped
from dlcli.formats.zip_archive import card_in, check_whole, holds, members, write_whole
from dlcli.trust import remember
from dlcli.wording import first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

NAME = "torchscript"

# Batches and lengths at which the result must answer as the model does.
_CHECKS = ((1, 1), (3, 11), (7, 4))
_TOLERANCE = 1e-4  # of the largest answer
_HALF_TOLERANCE = 5e-3


def write_torchscript(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Trace the source's module, or compile its code, whichever answers as the model does.

    Tracing sees one way through the code; where torch says that another input might take another way,
    the compiled code is preferred. Raises: DlcliError when neither gives the model's answers.
    """
    import torch

    module, card, sizes = shipped(source, config)
    module = module.cpu()
    with torch.no_grad(), _without_deprecations():
        made, how = _made(module, card, sizes, half=config.half)
        extra = {CARD_KEY: card.with_record(NAME, by=how).to_json()}
        write_whole(path, lambda file: _save(made, extra, file))
    remember(path)


def _save(made: Any, extra: dict[str, str], file: BinaryIO) -> None:
    """Save without the code's places on this machine and the noise of the trace."""
    import torch

    whole = io.BytesIO()
    torch.jit.save(made, whole, _extra_files=extra)
    whole.seek(0)
    reader = torch._C.PyTorchFileReader(whole)
    writer = torch._C.PyTorchFileWriter(file)
    # The writer adds the container's own records by itself.
    left_out = ("version", "byteorder", ".data/", "traced_inputs")
    for name in reader.get_all_records():
        if not name.startswith(left_out) and not name.endswith(".debug_pkl"):
            data = reader.get_record(name)
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()


def _made(module: nn.Module, card: Card, sizes: Sizes | None, *, half: bool) -> tuple[Any, str]:
    """The module as TorchScript and how it was made, "trace" or "script". Raises: DlcliError."""
    import torch

    def attempt(make: Callable[[], Any]) -> tuple[Any, str]:
        """What ``make`` gives, and what is wrong with it."""
        try:
            made = make()
        except Exception as exc:  # the compiler and the model's code may raise anything
            lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
            return None, lines[0] if lines else type(exc).__name__
        return made, _differs(made, module, card, sizes, half=half)

    doubts: list[str] = []
    traced, traced_wrong = attempt(lambda: _trace(module, example_of(card, sizes), doubts))
    if not traced_wrong and not doubts:
        return traced, "trace"
    scripted, scripted_wrong = attempt(lambda: torch.jit.script(module))
    if not scripted_wrong:
        return scripted, "script"
    if not traced_wrong:
        return traced, "trace"
    raise DlcliError(
        f"{card.model.name} cannot be written as TorchScript: trace: {traced_wrong}; "
        f"script: {scripted_wrong}",
        hint="export it as pt2 or onnx",
    )


def _trace(module: nn.Module, example: tuple[torch.Tensor, ...], doubts: list[str]) -> Any:
    """The traced module; ``doubts`` gets the places where a tensor's values decided the way."""
    import torch

    jit: Any = torch.jit  # not typed
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", jit.TracerWarning)
        # Its own check compares bit by bit and with the example's shapes alone.
        traced = jit.trace(module, example, check_trace=False)
    doubts += [str(w.message) for w in said if "Python boolean" in str(w.message)]
    return traced


def _differs(made: Any, module: nn.Module, card: Card, sizes: Sizes | None, *, half: bool) -> str:
    """How the result differs from the model at several batches and lengths; "" if it does not."""
    batches = (
        [batch_of(card, n, length, seed=n) for n, length in _CHECKS]
        if sizes is None
        else [example_of(card, sizes, seed=seed) for seed in (1, 2)]
    )
    for batch in batches:
        expected = module(*batch)
        at = f"at batch {len(batch[0])}"
        try:
            answer = made(*batch)
        except Exception as exc:  # an operator may refuse another shape in any way
            return f"it fails {at}: {str(exc).strip().splitlines()[-1]}"
        if answer.shape != expected.shape:
            return (
                f"it answers {tuple(answer.shape)} {at} where the model answers {tuple(expected.shape)}"
            )
        worst = float((answer - expected).abs().max())
        allowed = (_HALF_TOLERANCE if half else _TOLERANCE) * max(1.0, float(expected.abs().max()))
        if not worst <= allowed:
            return f"its answers differ by {worst:.3g} {at}"
    return ""


def read_card(path: Path) -> Card:
    """The card among the archive's extra files; nothing of it is run."""
    return card_in(path, NAME)


def open_torchscript(file: ModelFile, runtime: Runtime) -> TorchFile:
    """The module on the device. It may run code of the file. Raises: DlcliError."""
    import torch

    from dlcli.zoo.device import resolve_device

    path, _ = file.path, file.card  # without a card it is of no use
    check_whole(path)
    device = resolve_device(runtime.device)
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    try:
        with _without_deprecations():
            jit: Any = torch.jit  # not typed
            module = jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError) as exc:
        first = first_line(exc)
        raise DlcliError(
            f"torch {torch.__version__} cannot load {path}: {first}",
            hint="a newer torch may have written it; export it again",
        ) from exc
    return TorchFile(file, module, device)


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """torch says at each call that TorchScript is deprecated."""
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
        options=frozenset({"dynamic", "half", "softmax"}),
        runs_code=True,
    )
)
