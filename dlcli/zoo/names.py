"""Names of models, known without importing torch: read from the sources of zoo and torchvision."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from dlcli.errors import UsageError, nearest
from dlcli.trust import names_code

HF_PREFIX = "hf:"
_OTHER_LIBRARIES = ("timm:", HF_PREFIX)  # which only their library can list
# Of files; no name of a model ends so.
_WEIGHTS = (".pt", ".pth", ".safetensors", ".ckpt", ".bin", ".onnx")
_TEXT = re.compile(r'"([\w.-]+)"')
_OWN = re.compile(r'\b(?:_register\(|name=)"([\w.-]+)"')
_TORCHVISION = re.compile(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)

_HUB_NAME = re.compile(r"(\w[\w.-]*/(?!.*\.(?:safetensors|pth?|bin|ckpt|onnx)$)[\w.-]+)(?:@([\w.-]+))?")


def check_spelling(name: str) -> None:
    """Refuse a name that no model can have, in a fraction of the time that importing torch takes.

    `dlcli.zoo.base.check_name` decides; this refuses nothing that it knows. Raises: UsageError naming
    the nearest names.
    """
    if name.endswith(".py"):
        raise UsageError(f"--model {name} names no class of the file", hint=f"--model {name}:NAME")
    if name.endswith(_WEIGHTS):
        raise UsageError(
            f"--model {name} is a file of weights, which does not say what model they are of",
            hint=f"--model NAME --weights {name}; dlcli models lists the names",
        )
    own = _sources(Path(__file__).parent)
    if name in _TEXT.findall(own) or names_code(name) or name.startswith(_OTHER_LIBRARIES):
        return
    others = torchvision_names()
    if others and name not in others:
        known = dict.fromkeys((*own_names(), *others))
        raise UsageError(f"unknown model {name!r}", hint=f"{nearest(name, known)}; see dlcli models")


def check_kind(name: str, kind: str) -> None:
    """Raises: UsageError for a model of torchvision with data of another kind than images."""
    own = _TEXT.findall(_sources(Path(__file__).parent))
    if kind != "image" and name not in own and name in torchvision_names():
        raise wrong_kind(name, kind)


def hub_name(text: str) -> tuple[str, str | None] | None:
    """Return the repository and the revision of ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.

    They are weights of the Hugging Face hub, where no file has that name; None for other texts.
    """
    match = _HUB_NAME.fullmatch(text)
    return None if match is None else (match[1], match[2])


def wrong_kind(name: str, kind: str, takes: str = "images") -> UsageError:
    """Return the error of a family that has no model for a kind of input."""
    return UsageError(
        f"model {name} takes {takes}, not {kind} data", hint="dlcli models lists the others"
    )


def own_names() -> tuple[str, ...]:
    """Return the models of the zoo."""
    return tuple(dict.fromkeys(_OWN.findall(_sources(Path(__file__).parent))))


@cache
def torchvision_names() -> frozenset[str]:
    """Return the classifiers of the installed torchvision; none where its sources cannot be read.

    They are the functions under ``@register_model()`` in the modules of ``torchvision.models``.
    """
    spec = importlib.util.find_spec("torchvision")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return frozenset(
        name for folder in folders for name in _TORCHVISION.findall(_sources(Path(folder) / "models"))
    )


def _sources(folder: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
