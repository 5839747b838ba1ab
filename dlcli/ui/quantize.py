"""The screen of `dlcli quantize`: before and after, candidates, and sensitivity by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.ui.comparison import print_change
from dlcli.ui.console import stdout
from dlcli.ui.text import signed
from dlcli.wording import plural, printable, shorten, size

if TYPE_CHECKING:
    from dlcli.deploy.quantize.result import QuantizeResult

MAX_LAYERS = 20
NAMED = 5  # layers in float that are named one by one
NAME_WIDTH = 40
_BACKENDS = {"onnxruntime": "ONNX Runtime", "torch": "torch"}


def print_quantized(result: QuantizeResult, plots: Sequence[Path] = ()) -> None:
    """Print the result, the candidates where there were several, and the sensitivity of layers."""
    from dlcli.ui.tables import print_comparison

    chosen = result.chosen
    rows = [("method", f"{chosen.method}, run by {_BACKENDS[chosen.backend]}")]
    if chosen.backend == "onnxruntime":
        rows.append(("reference", "the same model as float32 ONNX in ONNX Runtime"))
    if chosen.run is not None:
        rows.append(("run", str(chosen.run.path)))
    if chosen.unsuited:
        rows.append(("in float", f"{_some(chosen.unsuited)} (no gain from int8)"))
    if in_float_by_choice := [name for name in chosen.layers_in_float if name not in chosen.unsuited]:
        rows.append(("" if chosen.unsuited else "in float", _some(in_float_by_choice)))
    rows += [(f"no {method}", why) for method, why in result.refused.items()]
    rows += [("plot", str(plot)) for plot in plots]
    print_change(result.comparison, "quantization", result.verdict(), rows)
    if len(result.candidates) > 1:
        stdout().print()
        title = f"candidates on {result.comparison.split}, in the order they were tried"
        columns = ["", "in float", "size", result.comparison.delta.metric, "agreement", ""]
        print_comparison(title, columns, _candidates(result))
    if result.sensitivity:
        stdout().print()
        shown = result.sensitivity[:MAX_LAYERS]
        more = len(result.sensitivity) - len(shown)
        title = "sensitivity: change of the outputs by each layer alone, relative to their std"
        table = [
            [shorten(one.name, NAME_WIDTH), f"{one.error:.3g}", _share(one.agreement)] for one in shown
        ]
        print_comparison(title, ["", "change", "agreement"], table)
        if more:
            stdout().print(f"  and {plural(more, 'layer')} with smaller changes")


def save_sensitivity(path: Path, result: QuantizeResult) -> Path:
    """Plot the sensitivity of each layer, worst first; returns ``path``. Raises: DlcliError."""
    from dlcli.ui.plots.canvas import BLUE, ORANGE, add_grid, new_figure, save_figure

    ranked = result.sensitivity
    fig, (axes,) = new_figure(7.5, min(1.6 + 0.22 * len(ranked), 40.0), columns=(1,))
    in_float = set(result.chosen.layers_in_float)
    colors = [ORANGE if in_float & set(one.layers) else BLUE for one in ranked]
    widths = [one.error if one.error < float("inf") else 0.0 for one in ranked]
    axes.barh(range(len(ranked)), widths, color=colors, height=0.72)
    axes.set_yticks(range(len(ranked)), [printable(shorten(one.name, NAME_WIDTH)) for one in ranked])
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlabel("change of the outputs over their std", fontsize=10)
    title = "each layer alone in fewer bits"
    if ORANGE in colors:
        title += " (orange: kept in float)"
    axes.set_title(title, fontsize=11)
    add_grid(axes)
    return save_figure(fig, path)


def _candidates(result: QuantizeResult) -> list[list[str]]:
    rows = []
    for candidate in result.candidates:
        delta = candidate.delta
        verdict = "keeps the bound" if candidate.within_bound else "misses it"
        chosen = ", chosen" if candidate is result.chosen else ""
        rows.append(
            [
                candidate.method,
                plural(len(candidate.layers_in_float), "layer"),
                size(candidate.size_bytes),
                signed(delta.difference),
                _share(delta.agreement),
                verdict + chosen,
            ]
        )
    return rows


def _some(layers: Sequence[str]) -> str:
    if len(layers) <= NAMED:
        return ", ".join(layers)
    return f"{plural(len(layers), 'layer')}: {', '.join(layers[:NAMED])}, ..."


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
