"""The model file: safetensors, with the card and a SHA-256 in the header. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.card import CARD_KEY, Card
from dlcli.data.base import Inputs
from dlcli.errors import DlcliError
from dlcli.files import atomic_file, library_writes, parse_json
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Outputs, Runtime, head_of
from dlcli.formats.encodings.base import decode, encode
from dlcli.trust import names_code, remember

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dlcli.zoo.precision import Precision

DIGEST_KEY = "dlcli.sha256"
LAYOUT_KEY = "dlcli.layout"  # of files in another form than the state dict that the card describes
PLAIN_LAYOUT, ADAPTER_LAYOUT = "plain", "adapter"
_MAX_HEADER = 100_000_000  # safetensors' own limit
_KINDS = {"F": "float", "I": "int", "U": "uint"}
_DTYPES = {  # of safetensors, and torch's names of them, which the digest is over
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "BF16": "bfloat16",
    "C64": "complex64",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in _KINDS.items() for bits in (8, 16, 32, 64)},
}


def save_model(path: Path, module: nn.Module, card: Card) -> None:
    """Write the module's state dict and the card, atomically. Raises: DlcliError when it cannot.

    The tensors are encoded as the card's records say. A file whose loading will run code is remembered
    as the user's own.
    """
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    write_tensors(path, encode(state, card.transforms), {CARD_KEY: card.to_json()})
    if names_code(card.model.name):
        remember(path)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors (any device, any strides) with metadata and a digest over both, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Contiguous copies: safetensors refuses shared storage and channels-last strides.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    header = dict(metadata)
    header[DIGEST_KEY] = digest(plain, metadata)
    with atomic_file(path) as tmp, library_writes("safetensors", tmp, SafetensorError):
        save_file(plain, tmp, metadata=header)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file of `write_tensors`, with the digest checked.

    Raises: DlcliError when the file is damaged: truncated, or a bit of it has changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    metadata = read_metadata(path)
    try:
        # Read whole: load_file maps the file into memory, and a mapped file that is replaced or
        # shortened while it is used kills the process.
        data = path.read_bytes()
        tensors = load(data)
    except (SafetensorError, OSError) as exc:
        raise DlcliError(f"{path} is damaged: {exc}") from exc
    _check_digest(path, metadata, data)
    return tensors, {key: value for key, value in metadata.items() if key != DIGEST_KEY}


def verify(path: Path) -> bool:
    """Compare a file with the digest in its header, without torch; False where it has none.

    Raises: DlcliError when it is damaged.
    """
    metadata = read_metadata(path)
    try:
        return _check_digest(path, metadata, path.read_bytes())
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc


def _check_digest(path: Path, metadata: Mapping[str, str], data: bytes) -> bool:
    """Compare a file's content with the `digest` in its metadata. Raises: DlcliError."""
    others = {key: value for key, value in metadata.items() if key != DIGEST_KEY}
    if DIGEST_KEY not in metadata and CARD_KEY not in metadata:
        return False
    if DIGEST_KEY not in metadata:
        raise DlcliError(
            f"{path} is damaged: it has a card, and no SHA-256 of its content",
            hint="copy it again; a program that writes it anew has to leave the card out",
        )
    length = int.from_bytes(data[:8], "little")
    body, header = memoryview(data)[8 + length :], parse_json(data[8 : 8 + length])
    total = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    try:
        for name in sorted(header.keys() - {"__metadata__"}):
            entry = header[name]
            dtype, (start, end) = entry["dtype"], entry["data_offsets"]
            torch_name = f"torch.{_DTYPES.get(dtype, dtype)}"
            total.update(f"{name}\0{torch_name}\0{tuple(entry['shape'])}\0".encode())
            total.update(body[start:end])
    except (KeyError, TypeError, ValueError) as exc:
        raise DlcliError(f"{path} is damaged: {exc!r}") from exc
    if total.hexdigest() != metadata[DIGEST_KEY]:
        raise DlcliError(
            f"{path} is damaged: its content does not match the SHA-256 in its header",
            hint="copy it again, or use the run's training state: dlcli train --resume RUN",
        )
    return True


def digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes of CPU tensors, and over the metadata."""
    import torch

    total = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def read_metadata(path: Path) -> dict[str, str]:
    """The header's metadata, read without torch and without touching the tensors.

    Raises: DlcliError when the header is not whole.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = parse_json(file.read(length))
        metadata: Any = header.get("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no mapping")
        last = max((e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"), default=0)
        if path.stat().st_size != 8 + length + last:
            raise ValueError(f"{path.stat().st_size} bytes where {8 + length + last} were written")
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as exc:
        raise DlcliError(f"{path} is damaged or no safetensors file: {exc}") from exc
    return {str(k): str(v) for k, v in metadata.items()}


def card_of(path: Path) -> Card:
    """The card in the header. Raises: DlcliError when there is none."""
    text = read_metadata(path).get(CARD_KEY)
    if text is None:
        raise DlcliError(
            f"{path} is a safetensors file without a dlcli card",
            hint="to start from its weights: dlcli train --model NAME --weights FILE",
        )
    return Card.from_json(text, source=path)


class Checkpoint(Artifact):
    """The float model in torch, in eval mode, on one device."""

    def __init__(self, file: ModelFile, card: Card, module: nn.Module, precision: Precision) -> None:
        super().__init__(file, card)
        self._module = module
        self._precision = precision
        self.device = precision.device

    def predict(self, inputs: Inputs) -> Outputs:
        """The module's outputs for a batch."""
        from dlcli.zoo.forward import predict

        with self._precision.autocast():
            return predict(self._module, inputs, self.card.task, self.device)

    def prepare_call(self, inputs: Inputs) -> Callable[[], object]:
        """The module's call on tensors that lie on its device."""
        from dlcli.zoo.forward import prepare_call

        call = prepare_call(self._module, inputs, self.card.task, self.device)

        def in_precision() -> object:
            with self._precision.autocast():
                return call()

        return in_precision if self._precision.dtype is not None else call

    def module(self) -> nn.Module:
        """The module, which takes the tensors of the card's signature."""
        return self._module


def open_checkpoint(file: ModelFile, runtime: Runtime) -> Checkpoint:
    """Build the card's model and load its tensors. Raises: DlcliError when they do not fit."""
    card = file.card
    stored, _ = read_tensors(file.path)
    try:
        state = decode(stored, card.transforms)
    except ValueError as exc:
        raise misfit(file.path, exc) from exc
    return build_checkpoint(file, state, runtime)


def build_checkpoint(file: ModelFile, state: Mapping[str, torch.Tensor], runtime: Runtime) -> Checkpoint:
    """The card's model with the tensors of a state dict.

    Low-rank factors are merged unless ``runtime`` keeps them. Raises: DlcliError when they do not fit.
    """
    from dlcli.zoo.base import build_model
    from dlcli.zoo.device import resolve_device, set_threads
    from dlcli.zoo.forward import load_tensors, place
    from dlcli.zoo.precision import resolve_precision
    from dlcli.zoo.structures.lora import merged

    card = file.card
    try:
        if runtime.merge:
            card, state = merged(card, state)
        module = build_model(card.model, card.task, card.transforms)
        load_tensors(module, state)
    except (RuntimeError, ValueError) as exc:
        raise misfit(file.path, exc) from exc
    where = resolve_device(runtime.device)
    precision = resolve_precision(runtime.amp, where)
    set_threads(runtime.threads)
    return Checkpoint(file, card, place(module, where).eval(), precision)


def misfit(path: Path, why: Exception) -> DlcliError:
    """The error of a file whose tensors are not those of its card."""
    return DlcliError(f"{path}: its tensors do not fit its card: {why}")


def looks_like(path: Path) -> bool:
    """Whether a file begins as safetensors does, whole or not. Raises: OSError."""
    head = head_of(path)
    return len(head) >= 10 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER


def layout_of(path: Path) -> str | None:
    """The layout that a file in safetensors form names; None for the state dict of its card."""
    try:
        return read_metadata(path).get(LAYOUT_KEY)
    except DlcliError:
        return None  # damaged: opening it says how


FORMATS.register("safetensors")(
    Format(
        name="safetensors",
        suffix=".safetensors",
        sniff=lambda path: looks_like(path) and layout_of(path) is None,
        read_card=card_of,
        open=open_checkpoint,
        verify=verify,
        trainable=True,
    )
)
