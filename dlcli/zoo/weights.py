"""Initial weights of a model: a published file, a file of the user, or random.

Files are read without unpickling code: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn

from dlcli.errors import DlcliError
from dlcli.network import require
from dlcli.task import TabularInput, TaskSpec, TextInput
from dlcli.wording import first_line
from dlcli.zoo.base import ModelEntry, Weights
from dlcli.zoo.forward import load_tensors

StateDict = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LoadedWeights:
    """Names of the tensors that `load_matching` loaded, left at their initial values, and ignored."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def sentence(self) -> str:
        """A summary for the user: how many tensors fit, and which do not."""
        text = f"{len(self.loaded)} of {len(self.loaded) + len(self.fresh)} tensors fit"
        if self.fresh:
            text += f"; {_some(self.fresh)} keep their initial values"
        if self.unused:
            text += f"; not used: {_some(self.unused)}"
        return text


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def published(weights: Weights, *, offline: bool) -> StateDict:
    """Load the published state dict, from torch's cache or the network.

    Raises: DlcliError within three seconds when it is not cached and cannot be downloaded.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
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
    """Read the tensors of a .safetensors or .pth file, by name.

    Checkpoints that nest them in ``state_dict`` or ``model`` are unwrapped, and the ``module.`` prefix
    of DataParallel is removed. Raises: DlcliError when the file is missing, damaged or contains code.
    """
    if not path.is_file():
        raise DlcliError(f"--weights {path} does not exist")
    with path.open("rb") as file:
        head = file.read(9)
    if len(head) == 9 and head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_pth(path)


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


def load_matching(module: nn.Module, state: StateDict, *, source: object) -> LoadedWeights:
    """Load every tensor whose name and shape match; the others keep their initial values.

    Raises: DlcliError when less than half of the module's tensors match: then the file is of another
    model.
    """
    own = module.state_dict()
    state = _fit_positions(own, state)
    matching = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if len(matching) < len(own) / 2:
        raise DlcliError(
            f"{source} does not fit: only {len(matching)} of the model's {len(own)} tensors are in it",
            hint="is it a file of another model? --model must be the one it was trained with",
        )
    load_tensors(module, matching, strict=False)
    return LoadedWeights(
        loaded=tuple(matching),
        fresh=tuple(k for k in own if k not in matching),
        unused=tuple(k for k in state if k not in matching),
    )


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
        raise DlcliError(f"{path} is damaged or not a safetensors file: {exc}") from exc


def _read_pth(path: Path) -> StateDict:
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
            f"{path} is damaged or not a PyTorch file: {type(exc).__name__} {first}"
        ) from exc
    for key in ("state_dict", "model_state_dict", "model", "model_state", "module"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise DlcliError(f"{path} has no state dict", hint="torch.save(model.state_dict(), FILE)")
    return {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}


def _fit_positions(own: StateDict, state: StateDict) -> StateDict:
    """Interpolate the position embedding (1, 1 + h*w, D) of a ViT bicubically to another input size.

    Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929, section 3.2.
    """
    key = "encoder.pos_embedding"
    if key not in own or key not in state or own[key].shape == state[key].shape:
        return state
    old, new = state[key], own[key]
    if old.ndim != 3 or old.shape[2] != new.shape[2]:
        return state
    side_old, side_new = math.isqrt(old.shape[1] - 1), math.isqrt(new.shape[1] - 1)
    if side_old**2 != old.shape[1] - 1 or side_new**2 != new.shape[1] - 1:
        return state
    grid = old[:, 1:].transpose(1, 2).reshape(1, -1, side_old, side_old)  # (1, D, h, w)
    grid = nn.functional.interpolate(grid, size=(side_new, side_new), mode="bicubic", align_corners=True)
    resampled = torch.cat([old[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    return {**state, key: resampled}
