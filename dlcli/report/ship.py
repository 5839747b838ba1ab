"""The page of a shipped model: what it is, its checks, and all that was tried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcli.report import svg
from dlcli.report.blocks import Block, Facts, Figure, Figures, Notes, Page, Section, Table
from dlcli.report.page import write_page, written_now
from dlcli.ui.text import figure, milliseconds, signed
from dlcli.wording import plural, size

_VERDICTS = {True: "kept", False: "missed", None: "–"}


def write_ship(result: Mapping[str, Any], target: Path) -> Path:
    """Write the page of what `dlcli ship --json` prints; returns the path. Raises: DlcliError."""
    return write_page(target, _page(result))


def _page(result: Mapping[str, Any]) -> Page:
    attempts = result["attempts"]
    chosen = next(one for one in attempts if one["label"] == result["chosen"])
    source = Path(result["artifact"])
    return Page(
        title=f"{source.parent.name}/{source.name} for {result['target']}",
        subtitle=f"{chosen['label']}: {chosen['how']}, of {plural(len(attempts), 'attempt')}.",
        tiles=_tiles(result, chosen),
        sections=[_result(result, chosen), _attempts(result), _rest(result)],
        written=written_now(),
    )


def _tiles(result: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    delta, test = chosen["delta"], result["test"]
    tiles = [("size", size(chosen["size_bytes"]), chosen["format"])]
    if test is not None:
        note = f"{signed(test['difference'])}, {plural(test['samples'], 'sample')}"
        tiles.append((f"test {test['metric']}", figure(test["after"]), note))
    value = figure(delta["metrics"][delta["metric"]])
    tiles.append((f"val {delta['metric']}", value, signed(delta["difference"])))
    if chosen["latency_ms"]:
        batch = min(chosen["latency_ms"], key=int)
        tiles.append(
            (f"batch {batch}", f"{milliseconds(chosen['latency_ms'][batch])} ms", chosen["device"])
        )
    return tiles


def _result(result: Mapping[str, Any], chosen: Mapping[str, Any]) -> Section:
    rows = [[one["check"], _VERDICTS[one["passed"]], one["text"]] for one in result["checks"]]
    blocks: list[Block] = []
    if result["missed"]:
        blocks.append(
            Notes([f"No attempt keeps the bounds: {one}." for one in result["missed"]], tone="bad")
        )
    blocks.append(Table("Checks", ["check", "bound", "figure"], rows, words=(1, 2)))
    weights = result["weights"]
    blocks.append(
        Facts(
            [
                ("SHA-256 of the model", result["sha256"]["model"]),
                ("made from", result["artifact"]),
                ("its SHA-256", result["sha256"]["source"]),
                ("weights from", weights["from"]),
                ("licence of the weights", weights["licence"]),
            ]
        )
    )
    if result["notes"]:
        blocks.append(Notes(result["notes"]))
    return Section("result", "What is shipped", blocks)


def _attempts(result: Mapping[str, Any]) -> Section:
    attempts = result["attempts"]
    batches = sorted({batch for one in attempts for batch in one["latency_ms"]}, key=int)
    heads = ["attempt", "what", "size", attempts[0]["delta"]["metric"], "95 % interval"]
    for batch in batches:
        heads += [f"ms, batch {batch}", "times as fast"]
    rows = [_row(one, batches, one["label"] == result["chosen"]) for one in attempts]
    first = attempts[0]
    note = (
        f"Differences from the original on {plural(first['samples'], 'sample')} of {first['split']}; "
        "times as fast as the original, in interleaved rounds, median and range. *: in the Pareto set "
        "of metric, size and time of a call. >: chosen."
    )
    blocks: list[Block] = [Table("Attempts", heads, rows, words=(1,), note=note)]
    drawn = _picture(result)
    return Section("attempts", "What was tried", [*([Figures([drawn])] if drawn else []), *blocks])


def _row(one: Mapping[str, Any], batches: list[str], chosen: bool) -> list[str]:
    delta = one["delta"]
    marks = ("> " if chosen else "") + one["label"] + (" *" if one["pareto"] else "")
    low, high = delta["low"], delta["high"]
    interval = "–" if low is None or high is None else f"{signed(low)} to {signed(high)}"
    cells = [marks, one["how"], size(one["size_bytes"]), signed(delta["difference"]), interval]
    for batch in batches:
        latency, ratio = one["latency_ms"].get(batch), one["speedup"].get(batch)
        cells.append("–" if latency is None else milliseconds(latency))
        cells.append(
            "–"
            if ratio is None
            else f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        )
    return cells


def _picture(result: Mapping[str, Any]) -> Figure | None:
    """The metric of each attempt over the size of its file."""
    attempts = result["attempts"]
    points = [
        (one["size_bytes"] / 1e6, one["delta"]["metrics"].get(one["delta"]["metric"]), one)
        for one in attempts
    ]
    known = [(mb, value, one) for mb, value, one in points if value is not None]
    if len(known) < 2:
        return None
    x = svg.scale([mb for mb, _, _ in known], svg.LEFT, svg.WIDTH - svg.RIGHT)
    y = svg.scale([value for _, value, _ in known], svg.HEIGHT - svg.BOTTOM, svg.TOP)
    groups: dict[str, list[tuple[float, float]]] = {"c0": [], "c4": [], "c1": []}
    for mb, value, one in known:
        colour = "c1" if one["label"] == result["chosen"] else "c0" if one["pareto"] else "c4"
        groups[colour].append((x(mb), y(value)))
    metric = known[0][2]["delta"]["metric"]
    parts = [svg.axes(x, y, "MB"), *(svg.dots(group, colour) for colour, group in groups.items())]
    caption = f"val {metric} over the size of the file"
    names = {"c1": "chosen", "c0": "Pareto set", "c4": "others"}
    legend = [(colour, names[colour]) for colour, group in groups.items() if group]
    label = f"{caption}, {plural(len(known), 'attempt')}"
    return Figure(caption, svg.drawing(parts, label), label, legend)


def _rest(result: Mapping[str, Any]) -> Section:
    lines = [f"{label} gave no file: {reason}" for label, reason in result["failed"].items()]
    lines += [f"{label} was not tried: {reason}" for label, reason in result["passed_over"].items()]
    lines += [f"{label} did not fit into --max-time" for label in result["left_out"]]
    return Section("rest", "Not tried, or without a file", [Notes(lines or ["Nothing."])])
