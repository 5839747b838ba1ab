"""Short Python files, for people, that load what an export wrote."""

from __future__ import annotations

from pathlib import Path

from dlcli import transforms
from dlcli.card import Card
from dlcli.task import ImageInput

_LOADS = {
    "pth": (
        [],
        'state = torch.load(FILE, map_location="cpu", weights_only=True)',
    ),
    "safetensors": (["from safetensors.torch import load_file"], "state = load_file(FILE)"),
}


def state_dict_snippet(path: Path, card: Card, container: str) -> str:
    """The text of a Python file that loads a state dict of this card into its model.

    ``container`` is "pth" or "safetensors". torchvision's architectures are built by torchvision alone;
    the others, and those whose layers were changed, by dlcli.
    """
    own_imports, load = _LOADS[container]
    plain = _torchvision(card)
    if plain:
        built, build = ["from torchvision import models"], [plain]
    else:
        built = ["from dlcli.formats.base import read_card", "from dlcli.zoo.base import build_model"]
        build = [
            "card = read_card(FILE)",
            "model = build_model(card.model, card.task, card.transforms)",
        ]
    lines = [
        f'"""Loads {path.name}: {card.model.name}, trained by dlcli for {card.task.kind}.',
        "",
        "Written by dlcli export.",
        '"""',
        "",
        "from pathlib import Path",
        "",
        "import torch",
        *sorted([*own_imports, *built]),
        "",
        f"FILE = Path(__file__).parent / {path.name!r}",
        "",
        load,
        *build,
        "model.load_state_dict(state)",
        "model.eval()",
        "",
        *_use(card),
    ]
    return "\n".join(lines) + "\n"


def _torchvision(card: Card) -> str:
    """The call by which torchvision builds the very same module; "" where it cannot."""
    from dlcli.zoo import transfer
    from dlcli.zoo.base import MODELS
    from dlcli.zoo.replay import STRUCTURES  # it imports torch

    name, task = card.model.name, card.task
    changed = any(STRUCTURES.find(record.kind) for record in card.transforms)
    changed = changed or transforms.find_record(card.transforms, transforms.ENSEMBLE) is not None
    if changed or not isinstance(task.input, ImageInput) or task.kind == "embedding":
        return ""
    if MODELS.find(f"image/{name}") is not None or not transfer.owns(name):
        return ""
    if card.model.args.get("head", "linear") != "linear":
        return ""
    settings = ", ".join(f"{k}={v!r}" for k, v in transfer.settings_of(name, task).items())
    return f"model = models.get_model({name!r}, weights=None, {settings})"


def _use(card: Card) -> list[str]:
    """How the model is called: the shapes of its inputs, and the names of its classes."""
    task = card.task
    lines = []
    if isinstance(task.input, ImageInput):
        lines.append(f"# an image is (pixels / 255 - mean) / std: mean {task.input.mean},")
        lines.append(f"# std {task.input.std}")
    names = []
    for tensor in task.input.signature:
        shape = [1 if dim == "batch" else 8 if isinstance(dim, str) else dim for dim in tensor.dims]
        fill = f"torch.full(({shape[0]},), 8)" if tensor.name == "lengths" else None
        lines.append(f"{tensor.name} = {fill or f'torch.zeros({shape}, dtype=torch.{tensor.dtype})'}")
        names.append(tensor.name)
    lines += [
        "with torch.inference_mode():",
        f"    print(model({', '.join(names)}))",
    ]
    if task.class_names and len(task.class_names) <= 20:
        lines.append(f"# {task.output.name} of {', '.join(map(repr, task.class_names))}")
    return lines
