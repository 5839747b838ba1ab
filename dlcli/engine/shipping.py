"""Export: write under a name that promises nothing, open again, compare, and only then name it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.config import EvalConfig, ExportConfig
from dlcli.data.prepare import random_inputs
from dlcli.engine.evaldata import EvalData, eval_data
from dlcli.engine.evaluate import answers_within
from dlcli.engine.parity import BATCH_SIZES, Parity, compare, real_samples
from dlcli.errors import DlcliError, UsageError
from dlcli.files import TMP_PREFIX, cannot_write, fsync_path
from dlcli.formats.base import FORMATS, Artifact, Format, open_artifact, sniff_format

_ANSWER_BYTES = 2**28


@dataclass(frozen=True)
class ExportResult:
    """What was written where. ``parity`` is None when the comparison was left out."""

    source: Path
    output: Path
    format: str
    source_bytes: int
    output_bytes: int
    parity: Parity | None

    @property
    def ok(self) -> bool:
        return self.parity is None or self.parity.ok

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "artifact": str(self.source),
            "output": str(self.output),
            "format": self.format,
            "size_bytes": {"before": self.source_bytes, "after": self.output_bytes},
            "parity": None if self.parity is None else self.parity.to_dict(),
        }


def writer(name: str) -> Format:
    """The format of that name, if it can be written. Raises: UsageError."""
    found = FORMATS.get(name)
    if found.write is None:
        names = [n for n, entry in FORMATS.entries() if entry.write is not None]
        raise UsageError(f"{name} is not an export format", hint="there is " + ", ".join(names))
    return found


def check_target(source: Path, target: Path, entry: Format) -> None:
    """Refuse to write over anything but an older file of the same format. Raises: UsageError."""
    if target.is_dir():
        raise UsageError(
            f"--output {target} is a folder", hint=f"--output {target / ('best' + entry.suffix)}"
        )
    if not target.exists():
        return
    if target.resolve() == source.resolve():
        raise UsageError(f"--output {target} is the model itself", hint="choose another name")
    try:
        same = sniff_format(target).name == entry.name
    except DlcliError:
        same = False
    if not same:
        raise UsageError(
            f"--output {target} exists and is no {entry.name} file", hint="choose another name"
        )


def export(
    source: Path, target: Path, entry: Format, config: ExportConfig, *, verify: bool
) -> ExportResult:
    """Write ``source`` as ``target`` and compare the two; a file that misses a bound is named .failed.

    What was at ``target`` before stays until the new file has passed. Raises: DlcliError when the
    source cannot be opened or exported.
    """
    assert entry.write is not None  # `writer` has seen to it
    artifact = open_artifact(source, device="cpu")
    parity = None
    with _folder_beside(target) as folder:
        staged = folder / target.name
        entry.write(artifact, staged, config)
        if verify:
            parity = check(artifact, entry.open(staged, "cpu"), config)
        good = parity is None or parity.ok
        output = target if good else target.with_name(target.name + ".failed")
        _publish(staged, output)
    return ExportResult(
        source=source,
        output=output,
        format=entry.name,
        source_bytes=source.stat().st_size,
        output_bytes=output.stat().st_size,
        parity=parity,
    )


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A temporary folder on the target's file system, gone afterwards: a format may write two files."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TMP_PREFIX, dir=target.parent) as folder:
            yield Path(folder)
    except OSError as exc:
        raise cannot_write(target, exc) from exc


def _publish(staged: Path, output: Path) -> None:
    """Give the file its name, after those it refers to (tensors beyond 2 GB) have theirs.

    A failed file goes alone: tensors of its own would replace those of an older good one.
    """
    beside = [path for path in staged.parent.iterdir() if path != staged]
    for path in beside if output.name == staged.name else []:
        fsync_path(path)
        os.replace(path, output.with_name(path.name))
    fsync_path(staged)
    os.replace(staged, output)
    fsync_path(output.parent)


def check(before: Artifact, after: Artifact, config: ExportConfig) -> Parity:
    """Compare on validation samples; where they cannot be reached, on noise, and say so."""
    # Answers of all samples are held at once, twice and with their difference: a text's are megabytes.
    count = min(config.samples, max(max(BATCH_SIZES), answers_within(_ANSWER_BYTES, before.card.task)))
    try:
        data = _validation(before, config)
        inputs, targets = real_samples(data, count)
    except DlcliError as exc:
        return compare(
            before,
            after,
            random_inputs(before.card.task, count),
            None,
            config,
            data="random",
            note=f"NOT VERIFIED ON DATA: {exc.message}",
        )
    return compare(before, after, inputs, targets, config, data=data.split, note=data.note)


def _validation(artifact: Artifact, config: ExportConfig) -> EvalData:
    asked = EvalConfig(split="val", workers=config.workers, offline=config.offline)
    try:
        return eval_data(artifact.card, artifact.path, asked)
    except UsageError:  # the data itself brings no validation split and the run's record is gone
        return eval_data(artifact.card, artifact.path, asked.model_copy(update={"split": "auto"}))
