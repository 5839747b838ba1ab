"""Initial weights of a model: a published file, a file of the user's, or random.

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
    """Names of the tensors that `load_matching` loaded, left as initialised, and did not use."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def sentence(self) -> str:
        """How many tensors fit, and which do not, for the user."""
        text = f"{len(self.loaded)} of {len(self.loaded) + len(self.fresh)} tensors fit"
        if self.fresh:
            text += f"; {_some(self.fresh)} start fresh"
        if self.unused:
            text += f"; not used: {_some(self.unused)}"
        return text


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def published(weights: Weights, *, offline: bool) -> StateDict:
    """The published state dict, from torch's own cache or the network.

    Raises: DlcliError within three seconds when it is not cached and cannot be fetched.
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
    """The tensors of a .safetensors or .pth file, by name.

    Checkpoints that wrap them in ``state_dict`` or ``model`` are opened, and a ``module.`` prefix of
    DataParallel is taken off. Raises: DlcliError when the file is missing, damaged or holds code.
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
    """The tensors of a model for ``old`` as far as they mean the same for ``new``; and sentences.

    A row of an embedding belongs to a token: rows go to the same token's place in the new vocabulary,
    and tokens that are new keep their fresh rows. A head of other classes or targets is left out.
    Raises: DlcliError for tables of other columns, whose weights mean nothing here.
    """
    notes: list[str] = []
    if old.class_names != new.class_names or old.targets != new.targets:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{head}.")}
        notes.append("its classes or targets are others, so the head starts fresh")
    if isinstance(old.input, TabularInput) and isinstance(new.input, TabularInput):
        one, other = _columns(old.input), _columns(new.input)
        if one != other:
            raise DlcliError(
                "--weights: its columns are not those of the data, so its weights mean nothing here",
                hint=f"it reads {', '.join(name for name, _ in one)[:200]}",
            )
    one_text, other_text = old.input, new.input
    if isinstance(one_text, TextInput) and isinstance(other_text, TextInput) and one_text != other_text:
        state, known = _by_token(module, state, one_text.vocabulary, other_text.vocabulary)
        notes.append(f"its vocabulary knows {known:,} of the {other_text.vocab_size:,} tokens here")
    return state, notes


def _columns(spec: TabularInput) -> list[tuple[str, tuple[str, ...]]]:
    """Name, and words in the order of their codes, of each column."""
    numbers: list[tuple[str, tuple[str, ...]]] = [(column.name, ()) for column in spec.numbers]
    return numbers + [(column.name, column.values) for column in spec.categories]


def _by_token(
    module: nn.Module, state: StateDict, old: tuple[str, ...], new: tuple[str, ...]
) -> tuple[StateDict, int]:
    """Embeddings with their rows moved to the new vocabulary; how many tokens were known."""
    place = {token: row for row, token in enumerate(old)}
    pairs = [(row, place[token]) for row, token in enumerate(new) if token in place]
    to, come = (torch.tensor(rows, dtype=torch.int64) for rows in zip(*pairs, strict=True))
    own, moved = module.state_dict(), dict(state)
    for name, tensor in state.items():
        fits = name in own and tensor.ndim == 2 and tensor.shape[1:] == own[name].shape[1:]
        if fits and len(tensor) == len(old) and len(own[name]) == len(new):
            moved[name] = own[name].clone().index_copy_(0, to, tensor[come])
    return moved, len(pairs)


def load_matching(module: nn.Module, state: StateDict, *, source: object) -> LoadedWeights:
    """Load every tensor whose name and shape fit; the rest of the module keeps its fresh weights.

    Raises: DlcliError when less than half of the module's tensors outside its head would be taken:
    then the file belongs to another model.
    """
    own = module.state_dict()
    state = _fit_positions(own, state)
    taken = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if len(taken) < len(own) / 2:
        raise DlcliError(
            f"{source} does not fit: only {len(taken)} of the model's {len(own)} tensors are in it",
            hint="is it a file of another model? --model must be the one it was trained with",
        )
    load_tensors(module, taken, strict=False)
    return LoadedWeights(
        loaded=tuple(taken),
        fresh=tuple(k for k in own if k not in taken),
        unused=tuple(k for k in state if k not in taken),
    )


def pretrained_or_reason(entry: ModelEntry, *, offline: bool) -> StateDict | str:
    """The published weights, or the sentence that says why there are none."""
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
        raise DlcliError(f"{path} is damaged or no safetensors file: {exc}") from exc


def _read_pth(path: Path) -> StateDict:
    import pickle

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as exc:  # a parser of foreign bytes: damage shows as anything, IndexError to OSError
        if isinstance(exc, pickle.UnpicklingError) and "GLOBAL" in str(exc):
            raise DlcliError(
                f"{path} holds more than tensors, and loading that could run code",
                hint="save its state dict: torch.save(model.state_dict(), FILE)",
            ) from exc
        first = first_line(exc)
        raise DlcliError(f"{path} is damaged or no PyTorch file: {type(exc).__name__} {first}") from exc
    for key in ("state_dict", "model_state_dict", "model", "model_state", "module"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise DlcliError(f"{path} holds no state dict", hint="torch.save(model.state_dict(), FILE)")
    return {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}


def _fit_positions(own: StateDict, state: StateDict) -> StateDict:
    """Resample a ViT's position embedding (1, 1 + h*w, D) bicubically to another input size.

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
