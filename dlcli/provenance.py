"""Provenance of exported files: their source, and whether it has changed since. No torch here.

A resumed run may improve: best.safetensors is then newer than the best.onnx next to it.
"""

from __future__ import annotations

from pathlib import Path

from dlcli.card import Card, TransformRecord
from dlcli.errors import DlcliError
from dlcli.files import sha256_file
from dlcli.transforms import EXPORTED


def provenance_record(source: Path) -> TransformRecord:
    """Return the record that names the source file of an export. Raises: DlcliError."""
    try:
        digest = sha256_file(source)
    except OSError as exc:
        raise DlcliError(f"cannot read {source}: {exc.strerror}") from exc
    return TransformRecord(kind=EXPORTED, args={"source": source.name, "sha256": digest})


def outdated(path: Path, card: Card) -> str | None:
    """Return a warning when the source of an exported file is next to it and has changed since."""
    records = [record for record in card.transforms if record.kind == EXPORTED]
    if not records:
        return None
    source_args = records[-1].args  # earlier records describe the source itself
    source = path.parent / Path(str(source_args.get("source", ""))).name
    if source.name == path.name:  # fine-tuned from an export: its source is elsewhere
        return None
    try:
        same = not source.is_file() or sha256_file(source) == source_args.get("sha256")
    except OSError:
        return None
    if same:
        return None
    return f"{path.name} was made from an older {source.name}: export it again for the newer weights"


def trained_source(path: Path, card: Card) -> Path | None:
    """Return the file of weights that an export was made from, where it is next to it."""
    names = [Path(str(r.args.get("source", ""))).name for r in card.transforms if r.kind == EXPORTED]
    sources = [path.parent / name for name in names[::-1] if name.endswith(".safetensors")]
    return next((source for source in sources if source.is_file()), None)
