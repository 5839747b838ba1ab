"""Initial weights of a model: a published file, a file of the user, or random.

Files are read without unpickling code: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn

from dlcli.errors import DlcliError
from dlcli.network import require
from dlcli.task import TabularInput, TaskSpec, TextInput
from dlcli.wording import first_line
from dlcli.zoo.base import ModelEntry, Weights
from dlcli.zoo.matching import StateDict
from dlcli.zoo.saved_optimizer import SavedOptimizer, find_optimizers
from dlcli.zoo.weight_files import is_index, shards_of, unpacked, weights_file

# Entries of checkpoints that hold the model's tensors, next to an optimizer's and an epoch.
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "model_state", "module", "net")
_COMPILED = "_orig_mod."  # what torch.compile puts into names
_MAX_NESTING = 4  # of state dicts in a checkpoint


def cache_file(weights: Weights) -> Path:
    """Where torch's cache has the file of published weights, or will have it."""
    return cache_folder() / Path(urlparse(weights.url).path).name


def cache_folder() -> Path:
    """Torch's folder of downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def published(weights: Weights, *, offline: bool) -> StateDict:
    """Load the published state dict, from torch's cache or the network.

    Raises: DlcliError within three seconds when it is not cached and cannot be downloaded.
    """
    cached = cache_file(weights)
    if not cached.is_file():
        if offline:
            raise DlcliError(
                f"{weights.label} is not cached in {cached.parent} and --offline forbids fetching it",
                hint=f"put {weights.url} there, or use --weights FILE",
            )
        require(weights.url, what=f"the pretrained weights {weights.label}")
        torch.hub.load_state_dict_from_url(
            weights.url, progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    return read_state_dict(cached)


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of a .safetensors or .pth file, by name. Raises: as `read_weights`."""
    return read_weights(path)[0]


def read_weights(path: Path) -> tuple[StateDict, tuple[SavedOptimizer, ...]]:
    """Read a model's tensors of a .safetensors or .pth file, and the states of optimizers next to them.

    A zip archive or folder may hold such a file: the snapshot of a hub. Checkpoints that nest tensors in
    an entry such as ``state_dict`` are unwrapped. An index leads to the files that it names.
    Raises: DlcliError when the file is missing, damaged or contains code.
    """
    path = weights_file(path)
    if not path.is_file():
        raise DlcliError(f"--weights {path} does not exist")
    with unpacked(path) as place:
        file = weights_file(place)
        return (_read_shards(file), ()) if is_index(file) else _read_file(file)


def _read_shards(index: Path) -> StateDict:
    """The tensors of all files that an index names.

    Raises: DlcliError for a file that is missing, damaged, or lacks a tensor that the index lists in it.
    """
    state: StateDict = {}
    for shard, listed in shards_of(index).items():
        tensors, _ = _read_file(index.parent / shard)
        lacking = sorted({name.replace(_COMPILED, "") for name in listed} - tensors.keys())
        twice = sorted(state.keys() & tensors.keys())
        problem = None
        if lacking:
            more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
            problem = f"lists {lacking[0]}{more} in {shard}, which does not have it"
        elif twice:
            problem = f"names two files with the tensor {twice[0]}, one of them {shard}"
        if problem is not None:
            hint = "the files are of different snapshots; download it again, whole"
            raise DlcliError(f"{index} {problem}", hint=hint)
        state |= tensors
    return state


def _read_file(path: Path) -> tuple[StateDict, tuple[SavedOptimizer, ...]]:
    """The tensors of one file, and optimizers. Raises: DlcliError."""
    with path.open("rb") as file:
        head = file.read(9)
    optimizers: tuple[SavedOptimizer, ...] = ()
    if head[8:9] == b"{":
        state = _read_safetensors(path)
    else:
        state, optimizers = _read_pth(path)
    return {name.replace(_COMPILED, ""): tensor for name, tensor in state.items()}, optimizers


def adapt(
    module: nn.Module, state: StateDict, *, old: TaskSpec, new: TaskSpec, head: str
) -> tuple[StateDict, list[str]]:
    """Adapt the state dict of a model for the task ``old`` to the task ``new``; returns notes, too.

    Rows of token embeddings are moved to the index of the same token in the new vocabulary; new tokens
    keep their initial rows. The head is omitted if classes or targets differ. Raises: DlcliError for
    tables of other columns.
    """
    notes: list[str] = []
    if old.class_names != new.class_names or old.targets != new.targets:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{head}.")}
        notes.append("its classes or targets differ, so the head keeps its initial weights")
    if isinstance(old.input, TabularInput) and isinstance(new.input, TabularInput):
        one, other = _columns(old.input), _columns(new.input)
        if one != other:
            raise DlcliError(
                "--weights: the columns of its model differ from those of the data",
                hint=f"it reads {', '.join(name for name, _ in one)[:200]}",
            )
    one_text, other_text = old.input, new.input
    if isinstance(one_text, TextInput) and isinstance(other_text, TextInput) and one_text != other_text:
        state, known = _by_token(module, state, one_text.vocabulary, other_text.vocabulary)
        notes.append(f"its vocabulary has {known:,} of the {other_text.vocab_size:,} tokens of the data")
    return state, notes


def _columns(spec: TabularInput) -> list[tuple[str, tuple[str, ...]]]:
    """The name of each column, and its categories in the order of their codes."""
    numbers: list[tuple[str, tuple[str, ...]]] = [(column.name, ()) for column in spec.numbers]
    return numbers + [(column.name, column.values) for column in spec.categories]


def _by_token(
    module: nn.Module, state: StateDict, old: tuple[str, ...], new: tuple[str, ...]
) -> tuple[StateDict, int]:
    """Move the rows of token embeddings to a new vocabulary; returns the number of known tokens, too."""
    old_rows = {token: row for row, token in enumerate(old)}
    pairs = [(row, old_rows[token]) for row, token in enumerate(new) if token in old_rows]
    target, source = (torch.tensor(rows, dtype=torch.int64) for rows in zip(*pairs, strict=True))
    own, moved = module.state_dict(), dict(state)
    for name, tensor in state.items():
        fits = name in own and tensor.ndim == 2 and tensor.shape[1:] == own[name].shape[1:]
        if fits and len(tensor) == len(old) and len(own[name]) == len(new):
            moved[name] = own[name].clone().index_copy_(0, target, tensor[source])
    return moved, len(pairs)


def pretrained_or_reason(entry: ModelEntry, *, offline: bool) -> StateDict | str:
    """The published weights, or a message why they are not available."""
    if entry.weights is None:
        return f"{entry.name} has no published weights"
    try:
        return published(entry.weights, offline=offline)
    except DlcliError as exc:
        return exc.message


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as exc:
        raise DlcliError(
            f"{path} is damaged or not a safetensors file: {exc}", hint="copy or download it again"
        ) from exc


def _read_pth(path: Path) -> tuple[StateDict, tuple[SavedOptimizer, ...]]:
    import pickle

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # damaged files raise anything from IndexError to OSError
        if isinstance(exc, pickle.UnpicklingError) and "GLOBAL" in str(exc):
            raise DlcliError(
                f"{path} contains more than tensors, and loading it could run code",
                hint="save its state dict: torch.save(model.state_dict(), FILE)",
            ) from exc
        first = first_line(exc)
        raise DlcliError(
            f"{path} is damaged or not a PyTorch file: {type(exc).__name__} {first}",
            hint="copy or download it again",
        ) from exc
    state = _nested_state(loaded, path)
    tensors = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    return tensors, find_optimizers(loaded)


def _nested_state(loaded: object, path: Path) -> Mapping[object, object]:
    """The mapping with tensors in a checkpoint. Raises: DlcliError where there is none, or several."""
    for _ in range(_MAX_NESTING):
        if not isinstance(loaded, Mapping):
            break
        keys = [key for key in _STATE_KEYS if isinstance(loaded.get(key), Mapping)][:1]
        if not keys and not _has_tensors(loaded):
            keys = [key for key, value in loaded.items() if _has_tensors(value)]
        if len(keys) > 1:
            raise DlcliError(
                f"{path} has several state dicts: {', '.join(map(str, keys))}",
                hint="save the one that is meant: torch.save(model.state_dict(), FILE)",
            )
        if not keys:
            break
        loaded = loaded[keys[0]]
    if not isinstance(loaded, Mapping) or not _has_tensors(loaded):
        raise DlcliError(f"{path} has no state dict", hint="torch.save(model.state_dict(), FILE)")
    return loaded


def _has_tensors(value: object) -> bool:
    """Whether a mapping has tensors of a layer among its values; a loss or a step is a single number."""
    return isinstance(value, Mapping) and any(
        isinstance(item, torch.Tensor) and item.ndim > 0 for item in value.values()
    )
