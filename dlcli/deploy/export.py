"""Export to a temporary file, reload it, check parity, and rename it into place.

`staging_folder` and `dlcli.formats.publish` are how every command writes a new model file.
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
from dlcli.config import ExportConfig, ExportSettings
from dlcli.deploy.compare import Comparison, compare_files
from dlcli.deploy.export_worker import write_in_process
from dlcli.deploy.parity import Parity, check_parity
from dlcli.deploy.raw_inputs import with_raw_parity
from dlcli.deploy.reference import ReferenceEvaluator
from dlcli.deploy.verdicts import verdict
from dlcli.errors import DlcliError, UsageError
from dlcli.events import Emit, Noted, Warned, ignore
from dlcli.files import TMP_PREFIX, writing
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
from dlcli.runs.folder import as_typed

_NO_SPEED = "weights alone have no speed of their own, the program that loads them has"
SAMPLES = 256  # of the parity check: enough to see one percent of other predictions


@dataclass(frozen=True)
class ExportResult:
    """An exported file.

    ``parity`` is None where nothing was compared, for the reason ``uncompared``; ``change`` compares the
    model with the file, None where the file was not measured or has failed the parity check.
    """

    source: Path
    output: Path
    format: str
    source_bytes: int
    output_bytes: int
    parity: Parity | None
    change: Comparison | None
    card: Card
    uncompared: str = ""

    @property
    def ok(self) -> bool:
        return self.parity is None or self.parity.ok

    def verdict(self) -> list[str]:
        """Return the verdict in words."""
        if self.parity is None:
            return [f"not compared ({self.uncompared})"]
        if self.change is None:
            return [f"DIFFERS: {'; '.join(self.parity.missed)}"]
        one_branch = (
            f"ONE BRANCH ONLY: the samples compared all went one way at {line}, "
            "and the file has no other"
            for line in self.parity.one_branch
        )
        return ["outputs are the same", *one_branch, *verdict(self.change, expect_smaller=False)]

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
            "verdict": self.verdict(),
        }


@dataclass(frozen=True)
class ExportFailure:
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


def installed_writers(config: ExportConfig, card: Card) -> list[Format]:
    """Return the formats for a model that support the options and whose dependencies are installed."""
    formats = []
    for _, entry in FORMATS.entries():
        if (
            entry.write is not None
            and not entry.unfit(card)
            and unsupported_option(entry, config) is None
        ):
            with suppress(DlcliError):
                require_extra(entry)
                formats.append(entry)
    return formats


def check_target(source: Path, target: Path, entry: Format) -> None:
    """Refuse a name with a wrong suffix, and to replace anything but an older file of the format.

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
        existing = recognize(target)
        # Without a card it is the file of another program, which may have no copy of it.
        same = bool(existing.card) and existing.format.name == entry.name
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
    """Write ``source`` as ``target`` and check parity; a file that fails is named .failed.

    An older file at ``target`` stays until the new one has passed. Raises: DlcliError when the
    source cannot be opened or exported.
    """
    (result,) = export_all(source, [(entry, target)], settings, verify=verify, trust=trust, emit=emit)
    if isinstance(result, ExportFailure):
        raise result.error
    return result


def export_all(
    source: Path | ModelFile,
    targets: Sequence[tuple[Format, Path]],
    settings: ExportSettings,
    *,
    verify: bool,
    trust: bool = False,
    emit: Emit = ignore,
) -> list[ExportResult | ExportFailure]:
    """`export` to several formats, measured on the same samples; a failure does not stop the others.

    Low-rank factors are merged in the files, and each is compared with the model as it was trained.

    Raises: DlcliError when the source itself cannot be opened, UsageError for an option that one of the
    formats does not support.
    """
    for entry, _ in targets:
        check_options(entry, settings.export)
    if not verify and settings.export.device != "cpu":
        raise UsageError(
            f"--device {settings.export.device} is where files are compared, and --no-verify skips that",
            hint="leave one of them out",
        )
    if len(targets) == 1:  # of several, the others are written
        require_extra(targets[0][0])
    artifact = open_artifact(source, device="cpu", trust=trust)
    artifact.module()  # what has none is refused before its samples are read
    original = artifact
    if transforms.find_record(artifact.card.transforms, transforms.MERGED_LORA) is not None:
        original = open_artifact(artifact.file, device="cpu", merge=False, trust=True)
    measure = settings.measure
    reference = None
    reason = "--no-verify"
    if verify:
        measure = measure.model_copy(update={"samples": measure.samples or SAMPLES})
        reference = ReferenceEvaluator(original, measure, emit)
        reason = reference.note if reference.split == "random" else ""
    record = provenance_record(artifact.path)
    card = _annotated(artifact.card, record.kind, **record.args)
    if reason:
        card = _annotated(card, transforms.UNVERIFIED, reason=reason)
    artifact = artifact.with_card(card)
    results: list[ExportResult | ExportFailure] = []
    for entry, target in targets:
        emit(Noted(f"writing {target}"))
        try:
            results.append(
                _export_one(
                    artifact, original, target, entry, settings, reference, trust=trust, emit=emit
                )
            )
        except DlcliError as exc:
            results.append(ExportFailure(entry.name, target, exc))
    return results


def _annotated(card: Card, kind: str, **args: Any) -> Card:
    """Return the card with an annotation, which replaces an older one of its kind."""
    others = [record for record in card.transforms if record.kind != kind]
    return card.model_copy(update={"transforms": (*others, TransformRecord(kind=kind, args=args))})


def _export_one(
    artifact: Artifact,
    original: Artifact,
    target: Path,
    entry: Format,
    settings: ExportSettings,
    reference: ReferenceEvaluator | None,
    *,
    trust: bool,
    emit: Emit,
) -> ExportResult:
    assert entry.write is not None  # every caller has checked it
    require_extra(entry)
    uncompared = "--no-verify" if reference is None else ""
    if why := entry.unrunnable():
        uncompared = "; ".join(filter(None, (why, entry.checked_unrun)))
        artifact = artifact.with_card(_annotated(artifact.card, transforms.UNVERIFIED, reason=why))
    parity, delta = None, None
    with staging_folder(target) as folder:
        staged = folder / target.name
        if entry.fresh(artifact):
            write_in_process(artifact, staged, entry, settings.export, trust=trust)
        else:
            entry.write(artifact, staged, settings.export)
        # Recognised by its content, as any command will do. Just written, it is trusted.
        written = recognize(staged)
        if reference is not None and not uncompared:
            device = settings.export.device
            opened = open_artifact(written, device=device, trust=True)
            parity = _parity(original, opened, reference, settings)
            if device != "cpu" and parity.ok:
                delta = reference.evaluate(opened)
        good = parity is None or parity.ok
        output = target if good else target.with_name(target.name + ".failed")
        card, size = written.card, written.size
        published = publish(written, output)
    if entry.runs_code and not published.remember():
        emit(Warned(f"{output} will need --trust: the list of your own files cannot be written"))
    change = None
    if reference is not None and good and not uncompared:
        # Both were opened above, so they are trusted even if that could not be remembered.
        change = compare_files(
            artifact.file,
            published,
            reference,
            settings.measure,
            delta=delta,
            untimed=_untimed(published, entry, settings.export.device),
            trust=True,
            emit=emit,
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
        uncompared=uncompared,
    )


def _untimed(file: ModelFile, entry: Format, device: str) -> str:
    """Why the file is not timed against the model; "" where it is."""
    if entry.trainable:
        return _NO_SPEED
    on = as_typed(file.path)
    return "" if device == "cpu" else f"dlcli benchmark {on} --device {device} times it there"


def _parity(
    before: Artifact, after: Artifact, reference: ReferenceEvaluator, settings: ExportSettings
) -> Parity:
    inputs, targets = reference.all_inputs()
    parity = check_parity(
        before,
        after,
        inputs,
        targets,
        settings.export,
        data=reference.split,
        note=f"NOT VERIFIED ON DATA: {reference.note}" if targets is None else reference.note,
    )
    return with_raw_parity(parity, before, after, reference, settings.export)


@contextmanager
def staging_folder(target: Path, *, destination: Path | None = None) -> Iterator[Path]:
    """Create a temporary folder next to ``target``; a format may write several files.

    Raises: CannotWrite where writing failed; it names ``destination``, by default the target.
    """
    target_named = destination or target
    with writing(target_named):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=TMP_PREFIX, dir=target.parent)
    with folder as name, writing(target_named, Path(name)):
        yield Path(name)
