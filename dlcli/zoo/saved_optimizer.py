"""The state of an optimizer in a checkpoint of another program, by the names of the parameters.

`torch.optim.Optimizer.state_dict` numbers the parameters in the order in which the optimizer got them.
An optimizer of ``model.parameters()`` has the order of the model's state dict, which is next to it in
the file; the shapes of the moments prove it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from dlcli.errors import UsageError
from dlcli.zoo.matching import LoadedWeights, StateDict

Entry = dict[str, torch.Tensor | float]  # what an optimizer remembers of one parameter
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class SavedOptimizer:
    """A state dict of an optimizer: the numbers of its parameters by group, and what it has of each.

    ``lr`` is the learning rate of the first group.
    """

    groups: tuple[tuple[int, ...], ...]
    entries: dict[int, Entry] = field(repr=False)
    lr: float | None = None


def find_optimizers(checkpoint: object) -> tuple[SavedOptimizer, ...]:
    """Return the states of optimizers among the entries of a checkpoint, known by their form.

    Tutorials call the entry ``optimizer_state_dict``, timm ``optimizer``; Lightning's
    ``optimizer_states`` is a list.
    """
    values = checkpoint.values() if isinstance(checkpoint, Mapping) else ()
    flattened = [v for value in values for v in (value if isinstance(value, list | tuple) else [value])]
    parsed = map(_parse, flattened)
    return tuple(saved for saved in parsed if saved is not None)


def _parse(value: object) -> SavedOptimizer | None:
    """Return the state that a value is, without entries that are no tensors or numbers."""
    if not isinstance(value, Mapping) or not {"state", "param_groups"} <= value.keys():
        return None
    state, groups = value["state"], value["param_groups"]
    if not isinstance(state, Mapping) or not isinstance(groups, list):
        return None
    numbers: list[tuple[int, ...]] = []
    for group in groups:
        params = group.get("params") if isinstance(group, Mapping) else None
        if not isinstance(params, list) or not all(isinstance(number, int) for number in params):
            return None
        numbers.append(tuple(params))
    entries = {
        number: {str(k): v for k, v in entry.items() if isinstance(v, torch.Tensor | int | float)}
        for number, entry in state.items()
        if isinstance(entry, Mapping)
    }
    lr = groups[0].get("lr") if groups else None
    return SavedOptimizer(tuple(numbers), entries, lr if isinstance(lr, float) else None)


def entries_by_name(
    saved: SavedOptimizer, state: StateDict, loaded: LoadedWeights, module: nn.Module
) -> dict[str, Entry]:
    """Return what the optimizer remembers by the names of the module's parameters.

    ``state`` is the model's state dict in the same file, from which ``loaded`` was loaded. Parameters
    that were not loaded, or of which nothing is remembered, are left out. Raises: UsageError where the
    order of the parameters is not that of the state dict.
    """
    own_names = {theirs: own for own, theirs in loaded.sources.items()}
    parameters = dict(module.named_parameters())

    def is_parameter(name: str) -> bool:
        if name in own_names:
            return own_names[name] in parameters
        return state[name].is_floating_point() and not name.endswith(_BUFFERS)

    numbers = [number for group in saved.groups for number in group]
    names = [name for name in state if is_parameter(name)]
    reasons = []
    for candidate in _orders(names, state, several=len(saved.groups) > 1):
        reason = _difference(numbers, candidate, saved, state)
        if not reason:
            return {
                own_names[name]: saved.entries[number]
                for number, name in zip(numbers, candidate, strict=True)
                if name in own_names
                and saved.entries.get(number)
                and state[name].shape == parameters[own_names[name]].shape
            }
        reasons.append(reason)
    raise UsageError(
        f"--optimizer-state: the optimizer in the file is not one of model.parameters(): {reasons[0]}",
        hint="which parameter is which cannot be known: leave --optimizer-state out, then its state "
        "begins anew",
    )


def _orders(names: list[str], state: StateDict, *, several: bool) -> Iterator[list[str]]:
    """Yield the usual orders: the model's, and of groups those with and without weight decay."""
    yield names
    if several:
        vectors = [name for name in names if state[name].ndim <= 1]
        matrices = [name for name in names if state[name].ndim > 1]
        yield vectors + matrices
        yield matrices + vectors


def _difference(
    numbers: Sequence[int], names: Sequence[str], saved: SavedOptimizer, state: StateDict
) -> str:
    """Return what shows that the parameters are others, in words; empty where all shapes agree."""
    if len(numbers) != len(names):
        return f"it has {len(numbers)} parameters, and the state dict {len(names)}"
    for number, name in zip(numbers, names, strict=True):
        whole = tuple(state[name].shape)
        for key, value in saved.entries.get(number, {}).items():
            if isinstance(value, torch.Tensor) and not fits(tuple(value.shape), whole):
                return f"{key} of parameter {number} is {tuple(value.shape)}, and {name} is {whole}"
    return ""


def fits(shape: tuple[int, ...], parameter: tuple[int, ...]) -> bool:
    """Whether an optimizer's tensor is broadcast to its parameter: a moment, a factor, a count."""
    return len(shape) in (0, len(parameter)) and all(
        size in (1, of) for size, of in zip(shape, parameter, strict=False)
    )
