"""What every model file is to the rest of dlcli: a card and a function from inputs to outputs."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from dlcli import transforms
from dlcli.card import Card
from dlcli.data.base import Inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.files import sha256_file
from dlcli.formats.encodings.base import ENCODINGS
from dlcli.formats.examples.base import Example
from dlcli.provenance import trained_source
from dlcli.registry import Registry
from dlcli.runs.folder import as_typed
from dlcli.trust import allowing, code_is_known, is_known, names_code, remember, trusts_all

if TYPE_CHECKING:
    from torch import nn

    from dlcli.config import ExportConfig

Outputs = npt.NDArray[np.float32]  # `TaskSpec.output` of a batch: logits or scaled numbers


@dataclass(frozen=True)
class ModelFile:
    """A model on disk whose format is known: a file, several next to each other, or a folder.

    Nothing is loaded; what is read of it (its card, its size) is read once. ``stored`` is the temporary
    copy of a file without a card, which is opened in its place.
    """

    path: Path
    format: Format
    stored: Path | None = None

    @property
    def content(self) -> Path:
        """Where its bytes are read: at ``path``, or of a copy with a card that has it as its name."""
        return self.stored or self.path

    @cached_property
    def card(self) -> Card:
        """The card. Raises: DlcliError where there is none or it is damaged."""
        return self.format.read_card(self.content)

    @cached_property
    def is_foreign(self) -> bool:
        """Whether another program wrote it, and `dlcli adopt` can give it a card."""
        if not self.format.adoptable:
            return False
        try:
            return not self.card
        except DlcliError:
            return not self.verify()  # a damaged one of dlcli's own says so

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """All its files: the path itself and those next to it that it refers to, or those in a folder.

        Raises: DlcliError where it is damaged.
        """
        if self.path.is_dir():
            return tuple(sorted(path for path in self.path.rglob("*") if path.is_file()))
        return (self.content, *self.format.companions(self.content))

    @cached_property
    def size(self) -> int:
        """Bytes of all its files. Raises: DlcliError."""
        try:
            return sum(path.stat().st_size for path in self.files)
        except OSError as exc:
            raise DlcliError(f"cannot read {exc.filename or self.path}: {exc.strerror}") from exc

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of the file at ``path``; of a folder, over the names and digests of its files.

        Raises: DlcliError.
        """
        try:
            if not self.path.is_dir():
                return sha256_file(self.path)
            names = (
                f"{path.relative_to(self.path).as_posix()}\0{sha256_file(path)}\n" for path in self.files
            )
            return hashlib.sha256("".join(names).encode()).hexdigest()
        except OSError as exc:
            raise DlcliError(f"cannot read {exc.filename or self.path}: {exc.strerror}") from exc

    def verify(self) -> bool:
        """Compare it with the digest that it carries; False where it carries none.

        Raises: DlcliError when it is damaged.
        """
        return self.format.verify(self.content)

    @property
    def runs_code(self) -> bool:
        """Whether opening it could run code of whoever wrote it."""
        return self.format.runs_code or self._names_code

    @property
    def _names_code(self) -> bool:
        """Whether opening it builds a model of a file's or another package's code."""
        return self.format.trainable and names_code(self.card.model.name)

    @property
    def code_is_known(self) -> bool:
        """Whether the code that its card names, if any, is what this user's dlcli has run."""
        model = self.card.model
        return not self._names_code or code_is_known(model.name, model.args)

    @property
    def is_own(self) -> bool:
        """Whether this user's dlcli wrote it, with these very bytes. Raises: DlcliError."""
        try:
            return all(is_known(path) for path in self.files)
        except OSError as exc:
            raise DlcliError(f"cannot read {exc.filename or self.path}: {exc.strerror}") from exc

    def remember(self) -> bool:
        """Note it as this user's own. False where the list cannot be written. Raises: OSError."""
        return all(remember(path) for path in self.files)


class Artifact(ABC):
    """An opened model. It does not change; `with_card` gives a copy."""

    def __init__(self, file: ModelFile, card: Card) -> None:
        self._file, self._card = file, card

    @property
    def file(self) -> ModelFile:
        """What was opened."""
        return self._file

    @property
    def path(self) -> Path:
        """The path that was opened."""
        return self._file.path

    @property
    def format(self) -> Format:
        """The format that it was opened with."""
        return self._file.format

    @property
    def size(self) -> int:
        """Bytes of all files of the model. Raises: DlcliError."""
        return self._file.size

    @property
    def card(self) -> Card:
        """The card: the file's, unless `with_card` gave another."""
        return self._card

    def with_card(self, card: Card) -> Self:
        """The same model with another card, for a writer to put into its file."""
        other = copy.copy(self)
        other._card = card
        return other

    @property
    def provider(self) -> str:
        """What of its runtime executes it, where the runtime has several: ONNX Runtime's provider."""
        return ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know of how it was opened."""
        return ()

    @abstractmethod
    def predict(self, inputs: Inputs) -> Outputs:
        """The outputs for a batch; pixels come as uint8 (n, H, W, C) and are normalised here."""

    def prepare_call(self, inputs: Inputs) -> Callable[[], object]:
        """The model's call for this batch, with what the host does before it already done.

        That is what a benchmark times. On a GPU it may return before the outputs are there.
        """
        return lambda: self.predict(inputs)

    def module(self) -> nn.Module:
        """The float model, where the format keeps one. Raises: DlcliError elsewhere."""
        raise no_weights(self.file, self.card)


@dataclass(frozen=True)
class Runtime:
    """Where an artifact runs: a device's name ("auto", "cpu", "cuda:1") and, on CPU, its threads.

    ``threads`` None is the library's default. In torch the number holds for the process. ``amp`` is the
    mixed precision of a trainable format: none, bf16 or fp16. Low-rank factors (LoRA) are added to their
    weights with ``merge``, else they stay apart, as they were trained.
    """

    device: str = "auto"
    threads: int | None = None
    amp: str = "none"
    merge: bool = True


@dataclass(frozen=True)
class Format:
    """A file format: how its models are recognised, read and written.

    Attributes:
        suffix: Ending of the names that an export gives.
        sniff: Whether a path is of this format, by its content. Raises: OSError.
        read_card: The card of a path; runs nothing of it, and imports no torch where the container
            allows it. Raises: DlcliError.
        open: Load the model. Raises: DlcliError.
        write: Export an artifact that has a module; None where a format is only read.
        unfit: Why no file can hold a model of this card, as the end of a sentence; "" where one can.
        unrunnable: Why this machine can run no file of the format, as a sentence; "" where it can.
        checked_unrun: What `write` has checked of a file that this machine cannot run, as a sentence.
        options: Settings of `ExportConfig` that its files honour, by name.
        static: Whether its files take batches and lengths of one size only.
        trainable: Whether its artifacts have a `module()`.
        runs_code: Whether opening a file could run code that is in it.
        extra: Optional dependency, "dlcli[EXTRA]", that reading and writing need.
        module: The package that ``extra`` installs.
        fresh: Whether this source must be exported in a process of its own, because the exporter
            depends on what it exported before.
        examples: Short programs, for people, that use a file without dlcli, by language.
        own_suffix: Whether its library takes files of this ending only.
        folder: Whether a model is a folder, with all files in it.
        adoptable: Whether `dlcli adopt` writes cards for such files of other programs.
        verify: Compare all files of a path with the digest that they carry, without running anything;
            False where they carry none, as those of other programs. Raises: DlcliError when they are
            damaged.
        companions: Files next to a model's path that belong to it, such as tensors stored apart; the
            file refers to them by name.
        facts: What `info` says of a path besides its card, by name. Raises: DlcliError.
    """

    name: str
    suffix: str
    sniff: Callable[[Path], bool]
    read_card: Callable[[Path], Card]
    open: Callable[[ModelFile, Runtime], Artifact]
    write: Callable[[Artifact, Path, ExportConfig], None] | None = None
    unfit: Callable[[Card], str] = lambda card: ""
    unrunnable: Callable[[], str] = lambda: ""
    checked_unrun: str = ""
    options: frozenset[str] = frozenset()
    static: bool = False
    trainable: bool = False
    runs_code: bool = False
    extra: str | None = None
    module: str | None = None
    fresh: Callable[[Artifact], bool] = lambda source: False
    examples: Mapping[str, Example] = field(default_factory=dict)
    own_suffix: bool = False
    folder: bool = False
    adoptable: bool = False
    companions: Callable[[Path], list[Path]] = lambda path: []
    verify: Callable[[Path], bool] = lambda path: False
    facts: Callable[[Path], dict[str, str]] = lambda path: {}


# Not encodings/, which imports torch: an ONNX file is read without.
FORMATS: Registry[Format] = Registry("format", "dlcli.formats", entry_module="format")


def sniff_format(path: Path) -> Format:
    """The format of a file or folder, by its content. Raises: DlcliError for one that is unknown."""
    try:
        folder = path.is_dir()
        if not folder and not head_of(path):
            raise DlcliError(f"{path} is empty (0 bytes)", hint="export or train it again")
        # At most one format recognises a path: the one of its ending's name first, to import no other.
        named = FORMATS.find(path.suffix.removeprefix("."))
        if named is not None and named.folder == folder and named.sniff(path):
            return named
        for _, entry in FORMATS.entries():
            if entry.folder == folder and entry.sniff(path):
                return entry
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    known = ", ".join(f"{e.name} ({e.suffix})" for _, e in FORMATS.entries())
    raise DlcliError(f"{path} is not a model file that dlcli reads", hint=f"it reads {known}")


def recognize(path: Path) -> ModelFile:
    """The model at a path, of any format. Raises: DlcliError where it is none."""
    return ModelFile(path, sniff_format(path))


def read_card(path: Path) -> Card:
    """The card of a model file of any format, without loading its weights. Raises: DlcliError."""
    return recognize(path).card


def no_weights(file: ModelFile, card: Card | None = None) -> DlcliError:
    """The error where trainable weights are needed; it names the file that has them.

    ``card`` is that of the file, where it has been read.
    """
    source = trained_source(file.path, card or file.card)
    name = "its run, or the run's best.safetensors" if source is None else as_typed(source)
    return DlcliError(
        f"{file.path} is of the format {file.format.name}, and holds no trainable model",
        hint=f"give the model that it was made from: {name}",
    )


def adopting(path: Path) -> str:
    """The way out for a file of another program, which has no card."""
    name = as_typed(path)
    return (
        f"dlcli adopt {name} --data DATA (or --classes FILE) writes a copy with one; eval, quantize and "
        "benchmark with --data need no copy"
    )


def head_of(path: Path, count: int = 64) -> bytes:
    """The first bytes of a file, for sniffing. Raises: OSError."""
    with path.open("rb") as file:
        return file.read(count)


def open_artifact(
    source: Path | ModelFile,
    *,
    device: str = "auto",
    threads: int | None = None,
    amp: str = "none",
    merge: bool = True,
    trust: bool = False,
) -> Artifact:
    """Open a model file of any known format.

    One that could run code, its own or that of a ``file.py`` model, opens when this user's dlcli wrote
    it and has run that code, or ``trust`` says so; what was trusted once is known from then on. Raises:
    DlcliError, and UsageError for mixed precision of a format that does not run as a torch module.
    """
    file = recognize(source) if isinstance(source, Path) else source
    require_extra(file.format)
    if amp != "none" and not file.format.trainable:
        raise UsageError(
            f"--amp {amp} is for models that torch runs, and {file.path} is a file of the format "
            f"{file.format.name}, whose precision was chosen when it was written",
            hint="leave --amp out, or name the run or its best.safetensors; export --half writes fp16",
        )
    _check_transforms(file)
    strange = _strange_code(file)
    if strange:
        _ = file.card  # a file without one is of no use: that is the first thing to say
    check_trusted(file, trust)
    with allowing(file.card.model.name if strange else None):
        artifact = file.format.open(file, Runtime(device, threads, amp, merge))
    if strange:
        file.remember()
    return artifact


def check_trusted(file: ModelFile, trust: bool, *, command: str = "eval") -> None:
    """Raises: DlcliError for a file that could run code of somebody else, and is not trusted."""
    strange = _strange_code(file)
    if strange and not (trust or trusts_all()):
        raise DlcliError(
            f"{file.path} {strange}",
            hint=f"if you trust its source: dlcli {command} {as_typed(file.path)} --trust, once",
        )


def _check_transforms(file: ModelFile) -> None:
    """Raises: DlcliError for a record of a kind that is not known: its effect would be left out."""
    for record in file.card.transforms:
        known = record.kind in transforms.KNOWN or record.kind in FORMATS.names()
        if not known and ENCODINGS.find(record.kind) is None:
            raise DlcliError(
                f"the card of {file.path} has a transform of an unknown kind, {record.kind!r}",
                hint="a newer dlcli may have written it: upgrade dlcli",
            )


def require_extra(entry: Format) -> None:
    """Raises: DlcliError with the pip line where a format's optional dependency is missing."""
    if entry.module is not None and importlib.util.find_spec(entry.module) is None:
        raise DlcliError(
            f"{entry.name} files need {entry.module}, which is not installed",
            hint=f'python -m pip install "dlcli[{entry.extra}]"',
        )


def _strange_code(file: ModelFile) -> str:
    """What code of somebody else's opening the file could run, as a predicate; "" for none."""
    if not file.runs_code:
        return ""
    if file.is_own:
        if file.code_is_known:
            return ""
        return (
            f"runs the code of {file.card.model.name} when it is loaded, and that code has changed "
            "since your dlcli ran it, or is new to it"
        )
    if file.format.runs_code:
        what = f"a {file.format.name} file can run code when it is loaded"
        return f"was not written by your dlcli, and {what}"
    return f"was not written by your dlcli, and loading it runs the code of {file.card.model.name}"
