"""Initial weights of a model: a published file, a file of the user, or random.

Files are read without unpickling code: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn

from dlcli.errors import DlcliError
from dlcli.files import check_unpacked, temporary_folder
from dlcli.network import require
from dlcli.task import TabularInput, TaskSpec, TextInput
from dlcli.wording import first_line
from dlcli.zoo.base import ModelEntry, Weights
from dlcli.zoo.matching import StateDict
from dlcli.zoo.saved_optimizer import SavedOptimizer, find_optimizers

# Files of weights in a folder: of a run, of a hub's snapshot.
FILES = ("best.safetensors", "model.safetensors", "pytorch_model.bin")
# Entries of checkpoints that hold the model's tensors, next to an optimizer's and an epoch.
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "model_state", "module", "net")
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


def weights_file(path: Path) -> Path:
    """The file of weights that a path leads to: in a folder, the one with a name of `FILES`.

    Raises: DlcliError for a folder without one.
    """
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    hint = f"give the file, or a folder with one of {', '.join(FILES)}"
    if any(path.glob("*.index.json")):
        hint = "its tensors are in several files: AutoModel.from_pretrained(FOLDER).save_pretrained("
        hint += "OTHER, max_shard_size='100GB') writes one"
    raise DlcliError(f"--weights {path} has no file of weights", hint=hint)


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of a .safetensors or .pth file, by name. Raises: as `read_weights`."""
    return read_weights(path)[0]


def read_weights(path: Path) -> tuple[StateDict, tuple[SavedOptimizer, ...]]:
    """Read a model's tensors of a .safetensors or .pth file, and the states of optimizers next to them.

    A zip archive or folder may hold such a file: the snapshot of a hub. Checkpoints that nest tensors in
    an entry such as ``state_dict`` are unwrapped, and the ``_orig_mod.`` that torch.compile puts into
    names is removed. Raises: DlcliError when the file is missing, damaged or contains code.
    """
    path = weights_file(path)
    if not path.is_file():
        raise DlcliError(f"--weights {path} does not exist")
    member = _snapshot_member(path)
    if member is not None:
        with temporary_folder() as folder:
            return _read_file(_unpack(path, member, folder), path)
    return _read_file(path, path)


def _read_file(path: Path, named: Path) -> tuple[StateDict, tuple[SavedOptimizer, ...]]:
    """Read a file; ``named`` is what messages call it."""
    with path.open("rb") as file:
        head = file.read(9)
    optimizers: tuple[SavedOptimizer, ...] = ()
    if head[8:9] == b"{":
        state = _read_safetensors(path, named)
    else:
        state, optimizers = _read_pth(path, named)
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}, optimizers


def _snapshot_member(path: Path) -> str | None:
    """The file of weights in a zip archive, the least deep; None for torch's archives."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.rpartition("/")[2] in FILES]
    except (zipfile.BadZipFile, OSError) as exc:
        raise DlcliError(f"{path} is damaged: {exc}") from exc
    return min(
        names, key=lambda name: (name.count("/"), FILES.index(name.rpartition("/")[2])), default=None
    )


def _unpack(path: Path, member: str, folder: Path) -> Path:
    """Unpack a member of an archive; its checksum is verified. Raises: DlcliError."""
    target = folder / member.rpartition("/")[2]
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked(path, archive.getinfo(member).file_size)
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as exc:
        raise DlcliError(f"{path} is damaged: its {member}: {exc}", hint="download it again") from exc
    return target


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


def _read_safetensors(path: Path, named: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as exc:
        raise DlcliError(f"{named} is damaged or not a safetensors file: {exc}") from exc


def _read_pth(path: Path, named: Path) -> tuple[StateDict, tuple[SavedOptimizer, ...]]:
    import pickle

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # damaged files raise anything from IndexError to OSError
        if isinstance(exc, pickle.UnpicklingError) and "GLOBAL" in str(exc):
            raise DlcliError(
                f"{named} contains more than tensors, and loading it could run code",
                hint="save its state dict: torch.save(model.state_dict(), FILE)",
            ) from exc
        first = first_line(exc)
        raise DlcliError(
            f"{named} is damaged or not a PyTorch file: {type(exc).__name__} {first}"
        ) from exc
    state = _nested_state(loaded, named)
    tensors = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    return tensors, find_optimizers(loaded)


def _nested_state(loaded: object, named: Path) -> Mapping[object, object]:
    """The mapping with tensors in a checkpoint. Raises: DlcliError where there is none, or several."""
    for _ in range(_MAX_NESTING):
        if not isinstance(loaded, Mapping):
            break
        keys = [key for key in _STATE_KEYS if isinstance(loaded.get(key), Mapping)][:1]
        if not keys and not _has_tensors(loaded):
            keys = [key for key, value in loaded.items() if _has_tensors(value)]
        if len(keys) > 1:
            raise DlcliError(
                f"{named} has several state dicts: {', '.join(map(str, keys))}",
                hint="save the one that is meant: torch.save(model.state_dict(), FILE)",
            )
        if not keys:
            break
        loaded = loaded[keys[0]]
    if not isinstance(loaded, Mapping) or not _has_tensors(loaded):
        raise DlcliError(f"{named} has no state dict", hint="torch.save(model.state_dict(), FILE)")
    return loaded


def _has_tensors(value: object) -> bool:
    """Whether a mapping has tensors of a layer among its values; a loss or a step is a single number."""
    return isinstance(value, Mapping) and any(
        isinstance(item, torch.Tensor) and item.ndim > 0 for item in value.values()
    )
