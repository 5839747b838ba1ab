"""What every model file is to the rest of dlcli: a card and a function from inputs to answers."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.data.base import Inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.registry import Registry
from dlcli.runs.folder import as_typed
from dlcli.trust import is_known, names_code, remember

if TYPE_CHECKING:
    from torch import nn

Outputs = npt.NDArray[np.float32]  # `TaskSpec.output` of a batch: logits or scaled numbers


class Artifact(ABC):
    """An opened model file."""

    def __init__(self, path: Path, card: Card) -> None:
        self.path = path
        self.card = card

    @abstractmethod
    def predict(self, inputs: Inputs) -> Outputs:
        """The answers for a batch; pixels come as uint8 (n, H, W, C) and are normalised here."""

    def prepared(self, inputs: Inputs) -> Callable[[], object]:
        """The model's call for this batch, with what the host does before it already done.

        That is what a benchmark times. On a GPU it may return before the answer is there.
        """
        return lambda: self.predict(inputs)

    def module(self) -> nn.Module:
        """The float model, where the format keeps one. Raises: DlcliError elsewhere."""
        raise DlcliError(f"{self.path} holds no trainable model", hint="use the run's best.safetensors")


@dataclass(frozen=True)
class Runtime:
    """Where an artifact runs: a device's name ("auto", "cpu", "cuda:1") and, on CPU, its threads.

    ``threads`` None is what the library takes by itself. In torch the number holds for the process.
    """

    device: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Format:
    """A file format: ``sniff`` looks at the file, ``read_card`` and ``open`` read it.

    ``read_card`` runs nothing of the file, and imports no torch where the container allows it.
    ``write(source, path, config)`` exports an artifact that has a module; formats without it are only
    read. ``trainable`` is whether its artifacts have a `module()`. ``runs_code`` is whether opening a
    file could run code that is in it. ``extra`` is the optional dependency, "dlcli[EXTRA]", that reading
    and writing need, and ``module`` what it installs.
    ``fresh(source)`` is whether this source must be written in a process of its own, because the
    exporter depends on what it exported before. ``example`` names a snippet that loads the file, for
    people: ``example(path, card)`` gives its text. ``own_suffix`` is whether its library takes files of
    this ending alone. ``beside(path)`` are the files that belong to this
    one: its tensors, where they lie apart.
    """

    name: str
    suffix: str
    sniff: Callable[[Path], bool]
    read_card: Callable[[Path], Card]
    open: Callable[[Path, Runtime], Artifact]
    write: Callable[[Artifact, Path, ExportConfig], None] | None = None
    options: frozenset[str] = frozenset()
    static: bool = False
    trainable: bool = False
    runs_code: bool = False
    extra: str | None = None
    module: str | None = None
    fresh: Callable[[Artifact], bool] = lambda source: False
    example: Callable[[Path, Card], str] | None = None
    own_suffix: bool = False
    beside: Callable[[Path], list[Path]] = lambda path: []


# Not encodings/, which imports torch: an ONNX file is read without.
FORMATS: Registry[Format] = Registry("format", "dlcli.formats", entry_module="format")

# Names that mean several formats at once.
GROUPS: dict[str, tuple[str, ...]] = {"state-dict": ("pth", "plain-safetensors")}

# What a format may be unable to do. The other settings of an export are bounds of its comparison.
_OPTIONS = {
    "opset": "--opset",
    "half": "--half",
    "embed_preprocessing": "--embed-preprocessing",
    "softmax": "--softmax",
    "simplify": "--simplify",
    "dynamic": "--static",
}


def unable(entry: Format, config: ExportConfig) -> str | None:
    """The first setting that means nothing to a format's files; None where they honour all."""
    for name in _OPTIONS:
        said = getattr(config, name) != ExportConfig.model_fields[name].default
        if said and name not in entry.options:
            return name
    return None


def check_options(entry: Format, config: ExportConfig) -> None:
    """Refuse what a format cannot honour, before anything is written. Raises: UsageError."""
    name = unable(entry, config)
    if name is not None:
        able = ", ".join(n for n, other in FORMATS.entries() if name in other.options)
        raise UsageError(
            f"{_OPTIONS[name]} means nothing to {entry.name} files",
            hint=f"it is for {able}: leave it out here",
        )
    if entry.static:
        return  # they are of one size whatever is said, so the sizes may be said alone
    for flag, size in (("--batch-size", config.batch_size), ("export.length", config.length)):
        if size is not None and config.dynamic:
            raise UsageError(f"{flag} is the size of a static {entry.name} file", hint="add --static")


def formats_named(names: Iterable[str]) -> list[Format]:
    """The formats of these names that can be written, groups in full, each once. Raises: UsageError."""
    found: dict[str, Format] = {}
    for name in names:
        for one in GROUPS.get(name, (name,)):
            entry = FORMATS.find(one)
            if entry is None or entry.write is None:
                able = [n for n, other in FORMATS.entries() if other.write is not None]
                raise UsageError(
                    f"{one} is not an export format", hint="there is " + ", ".join([*able, *GROUPS])
                )
            found[one] = entry
    return list(found.values())


def sniff_format(path: Path) -> Format:
    """The format of a file, from its content. Raises: DlcliError when it is none that dlcli reads."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if not head:
            raise DlcliError(f"{path} is empty (0 bytes)", hint="export or train it again")
        for _, entry in FORMATS.entries():
            if entry.sniff(path):
                return entry
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    known = ", ".join(f"{e.name} ({e.suffix})" for _, e in FORMATS.entries())
    raise DlcliError(f"{path} is not a model file that dlcli reads", hint=f"it reads {known}")


def head_of(path: Path, count: int = 64) -> bytes:
    """The first bytes of a file, for sniffing. Raises: OSError."""
    with path.open("rb") as file:
        return file.read(count)


def open_artifact(
    path: Path, *, device: str = "auto", threads: int | None = None, trust: bool = False
) -> Artifact:
    """Open a model file of any known format.

    One that could run code, its own or that of a ``file.py`` model, opens when this user's dlcli wrote
    it or ``trust`` says so; what was trusted once is known from then on. Raises: DlcliError.
    """
    entry = sniff_format(path)
    require_extra(entry)
    strange = _strange_code(path, entry)
    if strange:
        entry.read_card(path)  # without one the file is of no use, whoever is trusted
    if strange and not trust:
        raise DlcliError(
            f"{path} was not written by your dlcli, and {strange}",
            hint=f"if you trust whoever made it: dlcli eval {as_typed(path)} --trust, once",
        )
    artifact = entry.open(path, Runtime(device, threads))
    if strange:
        remember(path)
    return artifact


def require_extra(entry: Format) -> None:
    """Raises: DlcliError with the pip line where a format's optional dependency is missing."""
    if entry.module is not None and importlib.util.find_spec(entry.module) is None:
        raise DlcliError(
            f"{entry.name} files need {entry.module}, which is not installed",
            hint=f'python -m pip install "dlcli[{entry.extra}]"',
        )


def runs_code(entry: Format, card: Card) -> bool:
    """Whether opening a file of this format with this card could run code of whoever made it."""
    return entry.runs_code or (entry.trainable and names_code(card.model.name))


def _strange_code(path: Path, entry: Format) -> str:
    """What code of somebody else's opening the file could run, in words; "" for none."""
    if entry.runs_code:
        what = f"a {entry.name} file can run code when it is loaded"
    elif entry.trainable and names_code(name := entry.read_card(path).model.name):
        what = f"loading it runs the code of {name}"
    else:
        return ""
    return "" if is_known(path) else what


def size_of(path: Path) -> int:
    """The bytes of a model file and of those that belong to it. Raises: DlcliError, OSError."""
    return sum(file.stat().st_size for file in (path, *sniff_format(path).beside(path)))


def read_card(path: Path) -> Card:
    """The card of a model file of any known format, without loading its weights."""
    return sniff_format(path).read_card(path)
