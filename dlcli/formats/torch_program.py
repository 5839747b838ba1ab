"""What the files that torch runs share: the module as a file holds it, its capture, and its reader.

Their inputs are the tensors of ``task.input.signature`` in order (an image is normalised float32), their
output is ``task.output``. Remarks among the card's records say where a file is different: of one size
(`dlcli.formats.static_shape`), with readable answers (`answers`), or in 16 bits inside (kind "half").
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli import transforms
from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.data.base import Inputs
from dlcli.data.prepare import prepare, random_inputs
from dlcli.errors import DlcliError
from dlcli.formats.base import Artifact, ModelFile, Outputs
from dlcli.formats.encodings.base import without_encodings
from dlcli.formats.readable_outputs import (
    answers_probabilities,
    as_model_output,
    refuse_softmax,
    with_probabilities,
)
from dlcli.formats.static_shape import Sizes, ask_fixed, asked_sizes, sizes_of, with_sizes

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

Tensors = tuple["torch.Tensor", ...]

_EXAMPLE = (2, 7)  # samples and steps that a model is traced with; 1 might be taken for a constant


class TorchFile(Artifact):
    """A function of tensors that a file holds, on one device.

    ``contiguous`` is whether it must have them so: compiled code reads whatever lies there in that
    order, and pixels have other strides (`dlcli.zoo.forward.input_tensor`).
    """

    def __init__(
        self,
        file: ModelFile,
        run: Callable[..., torch.Tensor],
        device: torch.device,
        *,
        contiguous: bool = False,
    ) -> None:
        super().__init__(file, file.card)
        self.run, self.device = run, device
        self._contiguous = contiguous
        self._sizes = sizes_of(file.card)
        self._readable = answers_probabilities(file.card)

    def predict(self, inputs: Inputs) -> Outputs:
        """The answers for a batch, as the model gives them: logits or scaled numbers."""
        if self._sizes is not None:
            return ask_fixed(self._ask, inputs, self.card.task, self._sizes)
        return self._ask(inputs)

    def prepared(self, inputs: Inputs) -> Callable[[], object]:
        """The file's function on tensors that lie on its device."""
        import torch

        if self._sizes is not None:
            return lambda: self.predict(inputs)
        tensors = self._tensors(inputs)

        def call() -> torch.Tensor:
            with torch.inference_mode():
                return self.run(*tensors)

        return call

    def _ask(self, inputs: Inputs) -> Outputs:
        import torch

        with torch.inference_mode():
            out: Outputs = self.run(*self._tensors(inputs)).float().cpu().numpy()
        return as_model_output(out, self.card.task) if self._readable else out

    def _tensors(self, inputs: Inputs) -> Tensors:
        import torch

        from dlcli.zoo.forward import model_inputs

        moved = [torch.from_numpy(array).to(self.device) for array in inputs]
        tensors = model_inputs(moved, self.card.task)
        return tuple(_in_order(tensor) for tensor in tensors) if self._contiguous else tensors


def _in_order(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with the strides of a new one: `contiguous` leaves those of dimensions of size 1."""
    return tensor.contiguous().view(-1).view(tensor.shape)


def shipped(
    source: Artifact, config: ExportConfig, *, always_static: bool = False
) -> tuple[nn.Module, Card, Sizes | None]:
    """The module that a file shall hold, its card, and its sizes where they are fixed.

    The module is a copy in eval mode, with 16 bits inside or probabilities behind it where that is asked
    for. Raises: DlcliError when the source has no module, UsageError for --softmax where there are no
    logits.
    """
    task = source.card.task
    if config.softmax:
        refuse_softmax(task)
    module = copy.deepcopy(source.module()).eval().requires_grad_(False)
    asked = config.model_copy(update={"dynamic": False}) if always_static else config
    sizes = asked_sizes(asked, task)
    card = with_sizes(without_encodings(source.card), sizes)
    if config.half:
        card = card.with_record(transforms.HALF, dtype="float16")
    if config.softmax:
        card = with_probabilities(card)
    if config.half or config.softmax:
        module = _around(module, card, half=config.half, softmax=config.softmax)
    return module, card, sizes


def _around(module: nn.Module, card: Card, *, half: bool, softmax: bool) -> nn.Module:
    """The module behind casts to float16 and back, and in front of a softmax."""
    from torch import nn

    class Shipped(nn.Module):
        def __init__(self, model: nn.Module, labels: bool) -> None:
            super().__init__()
            self.model, self.labels = model, labels

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            cast = [x.half() if half and x.is_floating_point() else x for x in inputs]
            answer: torch.Tensor = self.model(*cast).float()
            if not softmax:
                return answer
            return answer.sigmoid() if self.labels else answer.softmax(dim=-1)

    inner = module.half() if half else module
    return Shipped(inner, card.task.kind == "multilabel").eval()


def example_of(card: Card, sizes: Sizes | None, *, seed: int = 0) -> Tensors:
    """Inputs to trace with, contiguous and on the CPU: of ``sizes``, or of two samples."""
    task = card.task
    if sizes is None:
        return batch_of(card, *_EXAMPLE, seed=seed)
    found: list[Inputs] = []

    def keep(batch: Inputs) -> Outputs:
        found.append(tuple(prepare(batch, task).values()))
        return np.zeros((len(batch[0]), 1, 1), np.float32)

    longest = max((size for name, size in sizes.items() if name != "batch"), default=None)
    ask_fixed(keep, random_inputs(task, sizes["batch"], length=longest, seed=seed), task, sizes)
    return _as_tensors(found[0])


def batch_of(card: Card, samples: int, length: int, *, seed: int = 0) -> Tensors:
    """Noise of so many samples, the longest of them ``length`` steps, as the module takes it."""
    arrays = prepare(random_inputs(card.task, samples, length=length, seed=seed), card.task)
    return _as_tensors(tuple(arrays.values()))


def _as_tensors(arrays: Inputs) -> Tensors:
    import torch

    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def captured(module: nn.Module, card: Card, sizes: Sizes | None) -> ExportedProgram:
    """The module as torch.export takes it down, with its batch and lengths free, or of ``sizes``.

    No stack traces with this machine's paths stay in it. Raises: DlcliError when the model's
    code cannot be taken down.
    """
    import torch
    from torch.export import Dim

    free: Any = None
    if sizes is None:
        dims: dict[str, Any] = {}
        free = tuple(
            {i: dims.setdefault(d, Dim(d, min=1)) for i, d in enumerate(t.dims) if isinstance(d, str)}
            for t in card.task.input.signature
        )
        if _takes_any(module):
            free = (free,)
    # Tensors of channels-last strides are written whole, but with a warning.
    module = module.to(memory_format=torch.contiguous_format)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    example = tuple(tensor.to(device) for tensor in example_of(card, sizes))
    try:
        with torch.no_grad(), quietly(), whole_recurrences():
            program = torch.export.export(module, example, dynamic_shapes=free)
    except Exception as exc:  # tracing runs the model's code, which may fail in any way
        raise cannot(card, "torch.export takes down", exc, static=sizes is not None) from exc
    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(name, None)
    return program


def cannot(card: Card, what: str, exc: Exception, *, static: bool) -> DlcliError:
    """The error for a model that a compiler refuses: ``what`` is what it should have done with it."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    first = lines[0] if lines else type(exc).__name__
    hint = "" if static else "--static fixes the batch and the length, which more models can bear; "
    return DlcliError(
        f"{card.model.name} is no model that {what}: {first}",
        hint=f"{hint}--debug shows the whole report",
    )


@contextlib.contextmanager
def whole_recurrences() -> Iterator[None]:
    """Let torch.export keep LSTMs and GRUs as the one operator that they are.

    By default torch (2.15) learns the shapes of their answers by taking them apart step by step, which
    fixes the length to that of the example. Here it is told the shapes.
    """
    import torch
    from torch._decomp import global_decomposition_table

    table = global_decomposition_table["post_autograd"]
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    rules: dict[Any, Callable[..., Any]] = {
        torch.ops.aten.gru.input: _gru_shapes,
        torch.ops.aten.lstm.input: _lstm_shapes,
    }
    before = [(op, table.get(op), op.py_kernels.get(composite)) for op in rules]
    for op, rule in rules.items():
        table[op] = op.py_kernels[composite] = rule
        op._dispatch_cache.clear()
    try:
        yield
    finally:
        for op, decomposition, kernel in before:
            _put(table, op, decomposition)
            _put(op.py_kernels, composite, kernel)
            op._dispatch_cache.clear()


def _put(table: dict[Any, Any], key: object, value: object) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _gru_shapes(x: Any, hx: Any, *rest: Any) -> tuple[Any, Any]:
    """Empty states (B, T, D * H) and last ones (layers * D, B, H), D being 2 with both directions."""
    bidirectional = rest[-2]
    return x.new_empty((*x.shape[:2], hx.shape[2] * (1 + bidirectional))), hx.new_empty(hx.shape)


def _lstm_shapes(x: Any, hx: Sequence[Any], *rest: Any) -> tuple[Any, Any, Any]:
    states, last = _gru_shapes(x, hx[0], *rest)
    return states, last, hx[1].new_empty(hx[1].shape)


def _takes_any(module: nn.Module) -> bool:
    """Whether its forward is ``*inputs``, which torch.export counts as one argument."""
    return type(module).__name__ == "Shipped"


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep torch's remarks about its own internals off the screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
