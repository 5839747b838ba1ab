"""The screen of `dlcli prune`: before and after, what is left of each layer, and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.ui.comparison import print_change
from dlcli.ui.console import stdout
from dlcli.ui.text import figure, signed
from dlcli.wording import plural, printable, shorten, size

if TYPE_CHECKING:
    from dlcli.compress.channels.prune import LayerChange
    from dlcli.deploy.prune.prune import PruneResult

MAX_LAYERS = 24  # longer models show the first and the last of those that were pruned
NAME_WIDTH = 32


def print_pruning(result: PruneResult) -> None:
    """Print the result, the attempts of a search, and the layers."""
    from dlcli.ui.tables import print_comparison

    rows = [("method", _how(result)), ("run", str(result.run))]
    if result.zeros[1]:
        zeros, total = result.zeros
        rows.append(("zeros", f"{zeros:,} of {total:,} weights ({zeros / total:.1%})"))
    if result.comparison.thresholds:
        hint = "dlcli eval --thresholds fits the thresholds of the model before anew"
        rows.append(("hint", hint))
    print_change(result.comparison, "pruning", result.verdict(), rows)
    if len(result.candidates) > 1:
        stdout().print()
        _print_attempts(result)
    shown, hidden = _first_and_last([layer for layer in result.layers if layer.kept < layer.of])
    rest = [layer for layer in result.layers if layer.kept == layer.of]
    masked = bool(result.zeros[1]) and result.macs[0] == result.macs[1]
    table = [
        [
            shorten(layer.name, NAME_WIDTH),
            f"{layer.kept:,} of {layer.of:,} ({layer.kept / layer.of:.0%})",
            _pair(layer.macs_before, layer.macs_after),
            _pair(layer.params_before, layer.params_after),
        ]
        for layer in shown
    ]
    if hidden:
        table.insert(len(shown) // 2, [f"({hidden} more)", "", "", ""])
    if rest:  # their outputs are all kept, but their inputs may be fewer
        macs = sum(layer.macs_before for layer in rest), sum(layer.macs_after for layer in rest)
        weights = sum(layer.params_before for layer in rest), sum(layer.params_after for layer in rest)
        table.append([f"({len(rest)} unpruned)", "", _pair(*macs), _pair(*weights)])
    sides = result.comparison.before, result.comparison.after
    params = _pair(sides[0].params, sides[1].params)
    table.append(["total", "", _pair(*result.macs), params])
    stdout().print()
    what = "weights" if masked else "channels"
    title = f"{plural(len(result.layers) - len(rest), 'layer')} with fewer {what}"
    print_comparison(title, ["", f"{what} kept", "multiply-adds", "parameters"], table)


def save_pruning(path: Path, result: PruneResult) -> Path:
    """Plot the share that each layer keeps; returns ``path``. Raises: DlcliError if it cannot write."""
    from dlcli.ui.plots.canvas import BLUE, GREY, add_grid, new_figure, save_figure

    layers = list(result.layers)
    height = min(2.0 + 0.22 * len(layers), 40.0)
    fig, panels = new_figure(9.0, height, columns=(1, 1))
    rows = range(len(layers))
    names = [printable(shorten(layer.name, NAME_WIDTH)) for layer in layers]
    masked = result.macs[0] == result.macs[1]
    series = (
        (f"{'weights' if masked else 'channels'} kept", [layer.kept / layer.of for layer in layers]),
        _second(layers, masked),
    )
    for number, (axes, (title, shares)) in enumerate(zip(panels, series, strict=True)):
        axes.barh(list(rows), [1.0] * len(layers), color="#E5E5E5", height=0.72, zorder=1)
        axes.barh(list(rows), shares, color=BLUE, height=0.72, zorder=2)
        axes.set_xlim(0, 1)
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_yticks(list(rows), names if not number else [""] * len(layers))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        add_grid(axes)
        axes.grid(False, axis="y")
        axes.set_title(title, fontsize=11)
        axes.tick_params(axis="y", length=0, labelcolor=GREY, labelsize=8)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
    fig.suptitle(f"{printable(shorten(result.run.name, 60))}: {_how(result)}", fontsize=12)
    return save_figure(fig, path)


def _second(layers: Sequence[LayerChange], masked: bool) -> tuple[str, list[float]]:
    if masked:  # how the remaining weights are distributed
        total = max(sum(layer.kept for layer in layers), 1)
        return f"share of all {total:,} weights left", [layer.kept / total for layer in layers]
    return "multiply-adds left", [layer.macs_after / max(layer.macs_before, 1) for layer in layers]


def _how(result: PruneResult) -> str:
    description = f"{result.method}, {result.target.describe()}"
    if len(result.schedule) > 1:
        description += f" in {len(result.schedule)} steps"
    if not result.epochs:
        return description + ", not fine-tuned"
    most = "" if result.max_steps is None else f", {plural(result.max_steps, 'step')} at most"
    return description + f", {plural(result.epochs, 'epoch')} of fine-tuning{most}"


def _print_attempts(result: PruneResult) -> None:
    from dlcli.ui.tables import print_comparison

    delta = result.comparison.delta
    rows = [
        [
            f"{100 * candidate.target.value:.4g} %",
            figure(candidate.delta.metrics[delta.metric]) if candidate.delta.metrics else "",
            signed(-candidate.delta.drop) if candidate.delta.drop else "0",
            f"{candidate.params:,}",
            size(candidate.size_bytes),
            "keeps the bound" if candidate.within_bound else "misses it",
            "kept" if candidate is result.chosen else "removed",
        ]
        for candidate in result.candidates
    ]
    columns = ["pruned", delta.metric, "change", "parameters", "size", "bound", "run"]
    print_comparison("attempts", columns, rows)


def _first_and_last(layers: Sequence[LayerChange]) -> tuple[list[LayerChange], int]:
    """Return the layers that are shown, and how many are not."""
    if len(layers) <= MAX_LAYERS:
        return list(layers), 0
    half = MAX_LAYERS // 2
    return [*layers[:half], *layers[-half:]], len(layers) - 2 * half


def _pair(before: int, after: int) -> str:
    if before == after:
        return f"{before:,}"
    return f"{before:,} -> {after:,} ({after / max(before, 1):.0%})"
