"""Writing the files that torch executes: the module to export, its example inputs, its graph."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli import transforms
from dlcli.card import Card
from dlcli.data.base import Inputs
from dlcli.data.prepare import prepare, random_inputs
from dlcli.errors import DlcliError
from dlcli.formats.base import Artifact
from dlcli.formats.encodings.base import without_encodings
from dlcli.formats.readable_outputs import check_softmax, with_readable_outputs
from dlcli.formats.static_shape import Sizes, batches_of_its_size, requested_sizes, with_sizes
from dlcli.formats.torch_program import Tensors
from dlcli.trust import CODE_FILE
from dlcli.user_code import line_of
from dlcli.wording import first_line

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

    from dlcli.config import ExportConfig

_TRACE_SHAPE = (2, 7)  # samples and steps; 1 might be taken for a constant


def module_to_export(
    source: Artifact, config: ExportConfig, *, always_static: bool = False
) -> tuple[nn.Module, Card, Sizes | None]:
    """The module that a file shall hold, its card, and its sizes where they are fixed.

    The module is a copy in eval mode; where the settings say so, it computes in 16 bits and ends in
    probabilities. Raises: DlcliError when the source has no module, UsageError for --softmax where there
    are no logits.
    """
    task = source.card.task
    if config.softmax:
        check_softmax(task)
    module = copy.deepcopy(source.module()).eval().requires_grad_(False)
    sizes = requested_sizes(
        config.model_copy(update={"dynamic": False}) if always_static else config, task
    )
    card = with_sizes(without_encodings(source.card), sizes)
    if config.half:
        card = card.with_record(transforms.HALF, dtype="float16")
    if config.softmax:
        card = with_readable_outputs(card)
    if config.half or config.softmax:
        module = _wrap(module, card, half=config.half, softmax=config.softmax)
    return module, card, sizes


def _wrap(module: nn.Module, card: Card, *, half: bool, softmax: bool) -> nn.Module:
    """The module between casts to float16 and back, and before a softmax or sigmoid."""
    from torch import nn

    class Wrapped(nn.Module):
        variadic = True

        def __init__(self, model: nn.Module, multilabel: bool) -> None:
            super().__init__()
            self.model, self.multilabel = model, multilabel

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            cast = [x.half() if half and x.is_floating_point() else x for x in inputs]
            outputs: torch.Tensor = self.model(*cast).float()
            if not softmax:
                return outputs
            return outputs.sigmoid() if self.multilabel else outputs.softmax(dim=-1)

    inner = module.half() if half else module
    return Wrapped(inner, card.task.kind == "multilabel").eval()


def example_inputs(card: Card, sizes: Sizes | None, *, seed: int = 0) -> Tensors:
    """Inputs to trace with, contiguous and on the CPU: of ``sizes``, or of two samples."""
    task = card.task
    if sizes is None:
        return noise_batch(card, *_TRACE_SHAPE, seed=seed)
    longest = max((size for name, size in sizes.items() if name != "batch"), default=None)
    noise = random_inputs(task, sizes["batch"], length=longest, seed=seed)
    batch = batches_of_its_size(noise, with_sizes(card, sizes))[0]
    return _to_tensors(tuple(prepare(batch, task).values()))


def noise_batch(card: Card, samples: int, length: int, *, seed: int = 0) -> Tensors:
    """Noise of so many samples, the longest of them ``length`` steps, as the module takes it."""
    arrays = prepare(random_inputs(card.task, samples, length=length, seed=seed), card.task)
    return _to_tensors(tuple(arrays.values()))


def _to_tensors(arrays: Inputs) -> Tensors:
    import torch

    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def export_program(module: nn.Module, card: Card, sizes: Sizes | None) -> ExportedProgram:
    """``torch.export.export`` of the module, with dynamic batch and lengths, or of ``sizes``.

    No stack traces with this machine's paths stay in it. Raises: DlcliError when the model's
    code cannot be exported.
    """
    import torch
    from torch.export import Dim

    dynamic: Any = None
    if sizes is None:
        dims: dict[str, Any] = {}
        dynamic = tuple(
            {i: dims.setdefault(d, Dim(d, min=1)) for i, d in enumerate(t.dims) if isinstance(d, str)}
            for t in card.task.input.signature
        )
        if getattr(module, "variadic", False):  # torch.export counts ``*inputs`` as one argument
            dynamic = (dynamic,)
    # Tensors of channels-last strides are written whole, but with a warning.
    module = module.to(memory_format=torch.contiguous_format)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    example = tuple(tensor.to(device) for tensor in example_inputs(card, sizes))
    try:
        with torch.no_grad(), silence_torch(), keep_rnn_operators():
            program = torch.export.export(module, example, dynamic_shapes=dynamic)
    except Exception as exc:  # tracing runs the model's code, which may fail in any way
        raise export_error("torch.export", card, exc, static=sizes is not None) from exc
    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(name, None)
    return program


def export_error(exporter: str, card: Card, exc: Exception, *, static: bool) -> DlcliError:
    """The error for a model that an exporter or compiler refuses: the first cause, the user's line."""
    causes: list[BaseException] = [exc]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    match = CODE_FILE.fullmatch(card.model.name)
    path = None if match is None else Path(match["path"])
    line = next((text for cause in causes[::-1] if (text := line_of(cause, path))), "")
    if any("data-dependent" in str(cause) for cause in causes):
        return DlcliError(
            f"{exporter} cannot export {card.model.name}: it branches on values of a tensor{line}, "
            "and a graph has no such branch",
            hint="write it with torch.where or torch.cond; or export --format torchscript, which keeps "
            "branches where it can compile the code",
        )
    hint = "" if static else "--static fixes the batch and the length, which more models support; "
    return DlcliError(
        f"{exporter} cannot export {card.model.name}: {first_line(causes[-1])}{line}",
        hint=f"{hint}--debug shows the whole report",
    )


@contextlib.contextmanager
def keep_rnn_operators() -> Iterator[None]:
    """Let torch.export keep an LSTM or GRU as the one operator that it is.

    By default torch (2.15) learns the shapes of its outputs by decomposing it step by step, which
    fixes the length to that of the example. Here the shapes are computed instead.
    """
    import torch
    from torch._decomp import global_decomposition_table

    table = global_decomposition_table["post_autograd"]
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    rules: dict[Any, Callable[..., Any]] = {
        torch.ops.aten.gru.input: _gru_outputs,
        torch.ops.aten.lstm.input: _lstm_outputs,
    }
    originals = [(op, table.get(op), op.py_kernels.get(composite)) for op in rules]
    for op, rule in rules.items():
        table[op] = op.py_kernels[composite] = rule
        op._dispatch_cache.clear()
    try:
        yield
    finally:
        for op, decomposition, kernel in originals:
            _restore(table, op, decomposition)
            _restore(op.py_kernels, composite, kernel)
            op._dispatch_cache.clear()


def _restore(table: dict[Any, Any], key: object, value: object) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _gru_outputs(x: Any, hx: Any, *rest: Any) -> tuple[Any, Any]:
    """Empty states (B, T, D * H) and last ones (layers * D, B, H), D being 2 with both directions."""
    bidirectional = rest[-2]
    return x.new_empty((*x.shape[:2], hx.shape[2] * (1 + bidirectional))), hx.new_empty(hx.shape)


def _lstm_outputs(x: Any, hx: Sequence[Any], *rest: Any) -> tuple[Any, Any, Any]:
    states, last = _gru_outputs(x, hx[0], *rest)
    return states, last, hx[1].new_empty(hx[1].shape)


@contextlib.contextmanager
def silence_torch() -> Iterator[None]:
    """Suppress the exporters' progress lines, warnings and log records."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
