"""The screen of `dlcli export`: parity of the outputs, and the model before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli import transforms
from dlcli.ui.comparison import print_change
from dlcli.ui.console import stdout
from dlcli.ui.tables import print_comparison, print_key_values
from dlcli.ui.transforms import in_words
from dlcli.wording import size

if TYPE_CHECKING:
    from dlcli.deploy.export import ExportFailure, ExportResult
    from dlcli.deploy.parity import BatchParity, Parity


def print_export(result: ExportResult, sidecars: Sequence[Path]) -> None:
    """Print one file: parity, verdict, and the table of before and after."""
    title = f"export to {result.format}"
    facts = [("sidecar", str(path)) for path in sidecars]
    facts += _simplified(result) + _versions(result)
    if result.parity is None:
        sizes = f"{size(result.source_bytes)} -> {size(result.output_bytes)}"
        rows = [("file", str(result.output)), ("size", sizes), *facts]
        print_key_values(title, [*rows, *(("verdict", text) for text in result.verdict())])
        return
    facts += _parity(result.parity)
    if result.change is None:
        rows = [("file", str(result.output)), *facts]
        print_key_values(title, [*rows, *(("verdict", text) for text in result.verdict())])
        return
    print_change(result.change, title, result.verdict(), facts)


def print_exports(results: Sequence[ExportResult | ExportFailure]) -> None:
    """Print several formats side by side, each with its verdict."""
    from dlcli.deploy.export import ExportResult

    columns = ["format", "size", "largest difference", "agreement"]
    facts, rows = [], []
    for result in results:
        if not isinstance(result, ExportResult):
            facts.append((result.format, f"FAILED: {result.error.message}"))
            rows.append([result.format, "", "", ""])
            continue
        batches = [] if result.parity is None else result.parity.batches
        same = [batch.agreement for batch in batches if batch.agreement is not None]
        rows.append(
            [
                result.format,
                size(result.output_bytes),
                f"{max(b.max_abs_diff for b in batches):.2g}" if batches else "",
                f"{min(same):.2%}" if same else "",
            ]
        )
        difference = [f"{result.output}", *result.verdict()]
        facts += [(result.format if i == 0 else "", text) for i, text in enumerate(difference)]
    print_key_values("exports", facts)
    stdout().print()
    print_comparison("side by side", columns, rows)


def _parity(parity: Parity) -> list[tuple[str, str]]:
    """Return the largest difference and the smallest agreement of all batches."""
    worst = max(parity.batches, key=lambda batch: batch.max_abs_diff)
    difference = f"{worst.max_abs_diff:.2g} at {_at(worst)}"
    sizes = ", ".join(str(n) for n in dict.fromkeys(b.batch_size for b in parity.batches))
    lengths = " and two lengths" if any(b.steps == "longer" for b in parity.batches) else ""
    source = "random noise" if parity.data == "random" else parity.data
    rows = [
        ("compared", f"{parity.samples:,} samples of {source}, at batch {sizes}{lengths}"),
        ("difference", f"at most {difference}"),
    ]
    agreements = [b.agreement for b in parity.batches if b.agreement is not None]
    if agreements:
        least = f"{min(agreements):.2%}"
        rows.append(("agreement", least if min(agreements) == 1 else f"{least} or more"))
    if parity.raw is not None:
        same = "" if parity.raw.agreement is None else f"{parity.raw.agreement:.2%} agreement, "
        rows.append(
            (
                "raw inputs",
                f"{parity.raw.samples:,} samples through the file's own preprocessing: {same}"
                f"difference at most {parity.raw.max_abs_diff:.2g}",
            )
        )
    return rows


def _at(batch: BatchParity) -> str:
    return f"batch {batch.batch_size}" + (", longer" if batch.steps == "longer" else "")


def _simplified(result: ExportResult) -> list[tuple[str, str]]:
    for record in result.card.transforms:
        if record.kind == transforms.SIMPLIFY:
            return [("nodes", f"{record.args['nodes_before']} -> {record.args['nodes_after']}")]
    return []


def _versions(result: ExportResult) -> list[tuple[str, str]]:
    record = transforms.find_record(result.card.transforms, transforms.ONNX_VERSIONS)
    return [] if record is None else [("versions", in_words(record))]
