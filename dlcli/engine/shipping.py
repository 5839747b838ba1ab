"""Export: write under a name that promises nothing, open again, compare, and only then name it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.config import EvalConfig, ExportConfig
from dlcli.engine.evaldata import EvalData, eval_data
from dlcli.engine.parity import Parity, compare, random_samples, real_samples
from dlcli.errors import DlcliError, UsageError
from dlcli.files import atomic_file, fsync_path
from dlcli.formats.base import FORMATS, Artifact, Format, open_artifact


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


def export(
    source: Path, target: Path, entry: Format, config: ExportConfig, *, verify: bool
) -> ExportResult:
    """Write ``source`` as ``target`` and compare the two; a file that misses a bound is named .failed.

    What was at ``target`` before stays until the new file has passed. Raises: DlcliError when the
    source cannot be opened or exported.
    """
    assert entry.write is not None  # `writer` has seen to it
    artifact = open_artifact(source, device="cpu")
    candidate = target.with_name(target.name + ".unverified")
    with atomic_file(candidate) as tmp:
        entry.write(artifact, tmp, config)
    parity = None
    if verify:
        try:
            parity = check(artifact, entry.open(candidate, "cpu"), config)
        except BaseException:
            candidate.unlink()
            raise
    good = parity is None or parity.ok
    output = target if good else target.with_name(target.name + ".failed")
    os.replace(candidate, output)
    fsync_path(output.parent)
    return ExportResult(
        source=source,
        output=output,
        format=entry.name,
        source_bytes=source.stat().st_size,
        output_bytes=output.stat().st_size,
        parity=parity,
    )


def check(before: Artifact, after: Artifact, config: ExportConfig) -> Parity:
    """Compare on validation samples; where they cannot be reached, on noise, and say so."""
    try:
        data = _validation(before, config)
        pixels, targets = real_samples(data, config.samples)
    except DlcliError as exc:
        return compare(
            before,
            after,
            random_samples(before, config.samples),
            None,
            config,
            data="random",
            note=f"NOT VERIFIED ON DATA: {exc.message}",
        )
    return compare(before, after, pixels, targets, config, data=data.split, note=data.note)


def _validation(artifact: Artifact, config: ExportConfig) -> EvalData:
    asked = EvalConfig(split="val", workers=config.workers, offline=config.offline)
    try:
        return eval_data(artifact.card, artifact.path, asked)
    except UsageError:  # the data itself brings no validation split and the run's record is gone
        return eval_data(artifact.card, artifact.path, asked.model_copy(update={"split": "auto"}))
