"""Models that dlcli does not know: a class in the user's own file, or one that a package offers.

``--model path/to/net.py:Net`` runs the file and calls ``Net(task, **model.args)``: the `TaskSpec` is
the only positional argument. ``Net`` is a class or a function; what it gives must be an nn.Module that
takes the tensors of ``task.input.signature`` in order and gives ``task.output``. A ``Net(num_classes,
in_channels)`` gets the values of these names instead (`known_arguments`)::

    class Net(nn.Module):
        def __init__(self, task, hidden=64):
            super().__init__()
            self.body = nn.Linear(math.prod(task.input.shape), hidden)
            self.head = nn.Linear(hidden, task.num_outputs)

        def forward(self, x):
            return self.head(torch.relu(self.body(x.flatten(1))))

Of several outputs, a tuple or a dict, the first is the model's, or "logits" of the names in an attribute
``outputs = ("aux", "logits")`` or of the keys; the others are left out, in training too.

A package offers the same by an entry point of the group ``dlcli.models``, whose name is then the
model's. Its head, for ``--freeze`` and ``--weights``, is the last linear layer, unless the module says
otherwise in an attribute ``head_path``. The card holds the file's absolute path or the entry point's
name, no code: loading such an artifact runs that code, and needs it. Whoever names it, the code runs
only where `dlcli.trust.check_code` allows it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from dlcli.call_arguments import signature_of
from dlcli.errors import DlcliError, UsageError
from dlcli.task import (
    ImageInput,
    PairsInput,
    SeriesInput,
    TabularInput,
    TaskKind,
    TaskSpec,
    TensorSpec,
    TextInput,
)
from dlcli.trust import CODE_FILE, MODELS_GROUP, entry_points, full_name, names_code
from dlcli.user_code import UserObject, load_object, read_code
from dlcli.zoo.base import FAMILIES, Family, ModelEntry
from dlcli.zoo.forward import has_images, keep_contiguous


class AnyArgs(BaseModel):
    """Whatever the class takes: it checks its own arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")


def needs_code(name: str) -> bool:
    """Whether a model of that name is code of the user's or of another package, run at loading."""
    return names_code(name)


def owns(name: str) -> bool:
    """Whether a name is ``file.py:Class`` or an installed entry point."""
    return needs_code(name)


def names() -> list[str]:
    """The entry points that installed packages offer."""
    return sorted(entry_points(MODELS_GROUP))


def entry(name: str, kind: str) -> ModelEntry:
    """The entry of a user's model; its name has the file's absolute path. Nothing is run yet.

    Raises: DlcliError when the file is not there.
    """
    full = full_name(name)
    match = CODE_FILE.fullmatch(full)
    if match is not None:
        read_code(Path(match["path"]))
    return ModelEntry(
        name=full,
        kind=kind,
        build=lambda task, args: _build(full, task, args),
        head=_head,
        tasks=get_args(TaskKind),
        args=AnyArgs,
        summary="a model of the user's own code",
    )


def _build(full: str, task: TaskSpec, args: AnyArgs) -> nn.Module:
    code = load_object(full, MODELS_GROUP, args.model_dump(mode="json"))
    positional, named = _call(full, code.value, task, args.model_dump())
    words = [*("task" for _ in positional), *(f"{name}={value!r}" for name, value in named.items())]
    with code.errors(f"{full}({', '.join(words)}) failed"):
        module = code.value(*positional, **named)
    if not isinstance(module, nn.Module):
        raise DlcliError(f"{full} gave a {type(module).__name__}, not an nn.Module")
    module.register_forward_hook(single_output)
    _check_order(code, module, task)
    _try_out(code, module, task)
    code.works()
    return module


def single_output(module: nn.Module, inputs: object, output: Any) -> Any:
    """The output of a model that may have several, as a hook: so every export does the same."""
    if isinstance(output, Mapping):
        return output["logits"] if "logits" in output else next(iter(output.values()), None)
    if isinstance(output, tuple | list):
        names = list(getattr(module, "outputs", ()))
        return output[names.index("logits") if "logits" in names else 0] if output else None
    return output


def known_arguments(task: TaskSpec) -> dict[str, int]:
    """The values that a class may ask for by name, as tutorials call them.

    ``input_size`` is that of the first layer: all pixels of an image, the columns of a row, the channels
    of a series, the vocabulary of the texts to translate.
    """
    spec = task.input
    outputs = ("num_outputs", "n_outputs", "out_features", "output_size", "output_dim")
    values = dict.fromkeys(outputs, task.num_outputs)
    if task.class_names:
        values |= dict.fromkeys(("num_classes", "n_classes", "num_labels"), task.num_classes)
    size: int | None = None
    if isinstance(spec, ImageInput):
        size = spec.channels * spec.height * spec.width
        values |= dict.fromkeys(("in_channels", "channels", "num_channels"), spec.channels)
        values |= dict.fromkeys(("img_size", "image_size"), spec.height)
    elif isinstance(spec, TabularInput):
        size = spec.shape[0]
    elif isinstance(spec, SeriesInput):
        size = len(spec.channels)
        values |= dict.fromkeys(("in_channels", "channels", "num_channels"), size)
        values |= dict.fromkeys(("seq_len", "sequence_length", "window"), spec.length)
    elif isinstance(spec, TextInput):
        values |= {"vocab_size": spec.vocab_size, "max_length": spec.max_length}
    elif isinstance(spec, PairsInput):
        size = spec.source.vocab_size
        for names, side in ((("source", "src"), spec.source), (("target", "tgt", "trg"), spec.target)):
            values |= dict.fromkeys((f"{name}_vocab_size" for name in names), side.vocab_size)
    if size is not None:
        values |= dict.fromkeys(("input_size", "in_features", "input_dim", "num_features"), size)
    if task.horizon:
        values["horizon"] = task.horizon
    return values


def _call(
    full: str, make: Callable[..., Any], task: TaskSpec, given: dict[str, Any]
) -> tuple[tuple[TaskSpec, ...], dict[str, Any]]:
    """The arguments of the call: the task and ``given``, or values by name where the class wants them.

    Raises: UsageError that lists what it can be called with, for other required parameters.
    """
    signature = signature_of(make)
    if signature is None:
        return (task,), given
    bases = [base for base in getattr(make, "__mro__", ()) if base not in (nn.Module, object)]
    if bases and not any("__init__" in vars(base) for base in bases):  # no arguments at all
        return (), given
    parameters = list(signature.parameters.values())
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = known_arguments(task)
    takes_task = any(p.name == "task" for p in named) or any(
        p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL) for p in parameters
    )
    first = named[0].name if named else ""
    own_name = bool(first) and first not in known and first not in given
    if takes_task or (own_name and len(_required(named)) == 1):
        return (task,), given
    values = {p.name: known[p.name] for p in named if p.name in known} | given
    missing = [p.name for p in _required(named) if p.name not in values]
    if missing:
        offered = ", ".join(f"{key}={value}" for key, value in known.items())
        raise UsageError(
            f"{full} asks for {', '.join(missing)}; it is called with task, or by name with {offered}",
            hint=f"name its parameters so, or give the value: --set model.args.{missing[0]}=VALUE",
        )
    return (), values


def _required(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    return [p for p in parameters if p.default is p.empty]


def _check_order(code: UserObject, module: nn.Module, task: TaskSpec) -> None:
    """Raises: DlcliError where ``forward`` cannot be called with the data's tensors, or names them in
    another order.
    """
    names = [tensor.name for tensor in task.input.signature]
    try:
        inspect.signature(module.forward).bind(*names)
    except TypeError as exc:
        raise DlcliError(
            f"{code.name} cannot take {_shapes(task.input.signature)}: TypeError: forward: {exc}",
            hint=f"def forward(self, {', '.join(names)})"
            + (": the true lengths tell padding from steps" if "lengths" in names else ""),
        ) from exc
    parameters = [name for name in inspect.signature(module.forward).parameters if name in names]
    if sorted(parameters) == sorted(names) and parameters != names:
        raise DlcliError(
            f"forward of {code.name} takes {', '.join(parameters)}, "
            f"and the data gives {', '.join(names)}",
            hint="put them into one order: tensors are passed by position",
        )


def _try_out(code: UserObject, module: nn.Module, task: TaskSpec) -> None:
    """Check the output's shape on two samples of zeros and on one: on a GPU it would fail elsewhere."""
    was_training = module.training
    module.eval()
    for count, words in ((2, "two samples"), (1, "one sample")):
        sizes: dict[str, int] = {"batch": count}
        inputs = [_zeros(spec, sizes) for spec in task.input.signature]
        with torch.no_grad(), code.errors(f"{code.name} cannot take {_shapes(task.input.signature)}"):
            output = module(*inputs)
        expected = tuple(sizes.get(d, 2) if isinstance(d, str) else d for d in task.output.dims)
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        if shape != expected:
            way = "size its last layer by task.num_outputs"
            raise DlcliError(
                f"{code.name} outputs {shape} for {words}, where the task needs {expected}",
                hint=way if count > 1 else "squeeze() drops the batch too where it is 1: leave it out",
            )
    if has_images(module) and not _takes_channels_last(module, inputs):
        keep_contiguous(module)
    module.train(was_training)


def _takes_channels_last(module: nn.Module, inputs: list[torch.Tensor]) -> bool:
    """Whether the code computes in that layout too, having computed in torch's own.

    A copy tries it: kernels of one channel would not get their own strides back.
    """
    layouts = (torch.channels_last if x.ndim == 4 else torch.contiguous_format for x in inputs)
    arranged = [x.contiguous(memory_format=f) for x, f in zip(inputs, layouts, strict=True)]
    try:
        with torch.no_grad():
            copy.deepcopy(module).to(memory_format=torch.channels_last)(*arranged)
    except RuntimeError:  # of ``view``
        return False
    return True


def _zeros(spec: TensorSpec, sizes: dict[str, int]) -> torch.Tensor:
    shape = [sizes.setdefault(d, 8) if isinstance(d, str) else d for d in spec.dims]
    if spec.name == "lengths":  # a sample of no step at all does not exist
        return torch.full(shape, 8, dtype=torch.int64)
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))


def _shapes(signature: tuple[TensorSpec, ...]) -> str:
    parts = (f"{s.name} {s.dtype} ({', '.join(map(str, s.dims))})" for s in signature)
    return ", ".join(parts)


def _head(module: nn.Module) -> str:
    path = getattr(module, "head_path", None)
    if isinstance(path, str):
        return path
    last = ""
    for path, part in module.named_modules():
        if isinstance(part, nn.Linear):
            last = path
    return last


FAMILIES.append(Family(owns, entry, names))
