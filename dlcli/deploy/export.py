"""Export: write under a name that promises nothing, open again, compare, and only then name it.

`folder_beside` and `dlcli.formats.publish` are how every command puts a new model next to another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli import transforms
from dlcli.card import Card, TransformRecord
from dlcli.config import ExportConfig, ExportSettings, parse_bound
from dlcli.deploy.compare import Comparison, compare_files
from dlcli.deploy.export_worker import write_in_process
from dlcli.deploy.parity import Parity, compare
from dlcli.deploy.raw_inputs import with_raw_parity
from dlcli.deploy.reference import ReferenceEvaluator
from dlcli.errors import DlcliError, UsageError
from dlcli.events import Emit, Noted, Warned, ignore
from dlcli.files import TMP_PREFIX, cannot_write
from dlcli.formats.base import (
    FORMATS,
    Artifact,
    Format,
    ModelFile,
    open_artifact,
    recognize,
    require_extra,
)
from dlcli.formats.export_options import check_options, unsupported_option
from dlcli.formats.publish import publish
from dlcli.provenance import provenance_record

# Enough to tell one percent of other classes; more only cost time.
SAMPLES = 256


@dataclass(frozen=True)
class ExportResult:
    """What was written where.

    ``parity`` is None when the comparison was left out; ``change`` is the model before and the file
    after, None where the file was not to be measured or is wrong.
    """

    source: Path
    output: Path
    format: str
    source_bytes: int
    output_bytes: int
    parity: Parity | None
    change: Comparison | None
    card: Card

    @property
    def ok(self) -> bool:
        return self.parity is None or self.parity.ok

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        change = {} if self.change is None else self.change.to_dict()
        return {
            "artifact": str(self.source),
            "output": str(self.output),
            "format": self.format,
            "size_bytes": {"before": self.source_bytes, "after": self.output_bytes},
            "parity": None if self.parity is None else self.parity.to_dict(),
            "changes": [record.model_dump() for record in self.card.transforms],
            **change,
        }


@dataclass(frozen=True)
class Failure:
    """A format that could not be written; the others were."""

    format: str
    output: Path
    error: DlcliError

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "format": self.format,
            "output": None,
            "error": self.error.message,
            "hint": self.error.hint,
        }


def writer(name: str) -> Format:
    """The format of that name, if it can be written. Raises: UsageError."""
    found = FORMATS.get(name)
    if found.write is None:
        names = [n for n, entry in FORMATS.entries() if entry.write is not None]
        raise UsageError(f"{name} is not an export format", hint="there is " + ", ".join(names))
    return found


def installed_writers(config: ExportConfig) -> list[Format]:
    """Every format that can be written so: without those whose extra is missing, or to which a setting
    means nothing."""
    found = []
    for _, entry in FORMATS.entries():
        if entry.write is not None and unsupported_option(entry, config) is None:
            with suppress(DlcliError):
                require_extra(entry)
                found.append(entry)
    return found


def check_target(source: Path, target: Path, entry: Format) -> None:
    """Refuse what the format cannot be called, and to write over anything but an older file of it.

    Raises: UsageError.
    """
    ending = "." + entry.suffix.rpartition(".")[2]
    if entry.own_suffix and target.suffix != ending:
        raise UsageError(
            f"--output {target}: {entry.name} files end in {ending}",
            hint=f"--output {target.with_suffix(ending)}",
        )
    if target.is_dir() and not entry.folder:
        raise UsageError(
            f"--output {target} is a folder", hint=f"--output {target / ('best' + entry.suffix)}"
        )
    if not target.exists():
        return
    if target.resolve() == source.resolve():
        raise UsageError(f"--output {target} is the model itself", hint="choose another name")
    try:
        found = recognize(target)
        # Without a card it is another program's file, and may be the only one of its kind.
        same = bool(found.card) and found.format.name == entry.name
    except DlcliError:
        same = False
    if not same:
        raise UsageError(
            f"--output {target} exists and is no {entry.name} file of dlcli's",
            hint="choose another name: --output",
        )


def export(
    source: Path | ModelFile,
    target: Path,
    entry: Format,
    settings: ExportSettings,
    *,
    verify: bool,
    trust: bool = False,
    emit: Emit = ignore,
) -> ExportResult:
    """Write ``source`` as ``target`` and compare the two; a file that misses a bound is named .failed.

    What was at ``target`` before stays until the new file has passed. Raises: DlcliError when the
    source cannot be opened or exported.
    """
    (found,) = export_all(source, [(entry, target)], settings, verify=verify, trust=trust, emit=emit)
    if isinstance(found, Failure):
        raise found.error
    return found


def export_all(
    source: Path | ModelFile,
    wanted: Sequence[tuple[Format, Path]],
    settings: ExportSettings,
    *,
    verify: bool,
    trust: bool = False,
    emit: Emit = ignore,
) -> list[ExportResult | Failure]:
    """`export` to several formats, measured on the same samples; one that fails stops no other.

    Raises: DlcliError when the source itself cannot be opened, UsageError for an option that one of the
    formats cannot honour.
    """
    for entry, _ in wanted:
        check_options(entry, settings.export)
    parse_bound(settings.export.max_drop)
    if len(wanted) == 1:  # of several, the others are written
        require_extra(wanted[0][0])
    artifact = open_artifact(source, device="cpu", trust=trust)
    artifact.module()  # what has none is refused before its samples are read
    measure = settings.measure
    reference = None
    reason = "--no-verify"
    if verify:
        asked = measure.model_copy(update={"samples": measure.samples or SAMPLES})
        reference = ReferenceEvaluator(artifact, asked, emit)
        reason = reference.note if reference.split == "random" else ""
    record = provenance_record(artifact.path)
    card = _noted(artifact.card, record.kind, **record.args)
    if reason:
        card = _noted(card, transforms.UNVERIFIED, reason=reason)
    artifact = artifact.with_card(card)
    found: list[ExportResult | Failure] = []
    for entry, target in wanted:
        emit(Noted(f"writing {target}"))
        try:
            one = _export_one(artifact, target, entry, settings, reference, trust=trust, emit=emit)
            found.append(one)
        except DlcliError as exc:
            found.append(Failure(entry.name, target, exc))
    return found


def _noted(card: Card, kind: str, **args: Any) -> Card:
    """The card with one more remark, in the place of an older one of that kind."""
    others = [record for record in card.transforms if record.kind != kind]
    return card.model_copy(update={"transforms": (*others, TransformRecord(kind=kind, args=args))})


def _export_one(
    artifact: Artifact,
    target: Path,
    entry: Format,
    settings: ExportSettings,
    reference: ReferenceEvaluator | None,
    *,
    trust: bool,
    emit: Emit,
) -> ExportResult:
    assert entry.write is not None  # `writer` has seen to it
    require_extra(entry)
    parity = None
    with folder_beside(target) as folder:
        staged = folder / target.name
        if entry.fresh(artifact):
            write_in_process(artifact, staged, entry, settings.export, trust=trust)
        else:
            entry.write(artifact, staged, settings.export)
        # Recognised by its content, as any command will: written a moment ago, it is the user's own.
        written = recognize(staged)
        if reference is not None:
            opened = open_artifact(written, device="cpu", trust=True)
            parity = _parity(artifact, opened, reference, settings)
        good = parity is None or parity.ok
        output = target if good else target.with_name(target.name + ".failed")
        card, size = written.card, written.size
        published = publish(written, output)
    if entry.runs_code and not published.remember():
        emit(Warned(f"{output} will need --trust: the list of your own files cannot be written"))
    change = None
    if reference is not None and good:
        # Both were trusted to be opened above, whether or not that could be remembered.
        change = compare_files(
            artifact.file, published, reference, settings.measure, trust=True, emit=emit
        )
    return ExportResult(
        source=artifact.path,
        output=output,
        format=entry.name,
        source_bytes=artifact.size,
        output_bytes=size,
        parity=parity,
        change=change,
        card=card,
    )


def _parity(
    before: Artifact, after: Artifact, reference: ReferenceEvaluator, settings: ExportSettings
) -> Parity:
    inputs, targets = reference.all_inputs()
    found = compare(
        before,
        after,
        inputs,
        targets,
        settings.export,
        data=reference.split,
        note=f"NOT VERIFIED ON DATA: {reference.note}" if targets is None else reference.note,
    )
    return with_raw_parity(found, before, after, reference, settings.export)


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A temporary folder on the target's file system, gone afterwards: a format may write two files."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TMP_PREFIX, dir=target.parent) as folder:
            yield Path(folder)
    except OSError as exc:
        raise cannot_write(target, exc) from exc
