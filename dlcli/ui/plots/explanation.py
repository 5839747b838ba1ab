"""Pictures of explanations: an image next to its heat map, or the largest effects as bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.data.previews import under_heat
from dlcli.ui.plots.canvas import BLUE, ORANGE, add_grid, new_figure, save_figure
from dlcli.wording import number, printable, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlcli.evaluation.explanations import Explanation

_BARS = 20
_METHODS = {"gradcam": "Grad-CAM", "occlusion": "occlusion"}


def save_explanation(one: Explanation, path: Path) -> Path:
    """Write the picture of an explanation; returns ``path``. Raises: DlcliError when it cannot."""
    return save_figure(_bars(one) if one.heat is None else _heat(one), path)


def _heat(one: Explanation) -> Figure:
    assert one.heat is not None
    assert one.pixels is not None
    height, width = one.heat.shape
    tall = min(max(3.2 * height / width, 1.2), 6.0)
    fig, (left, right) = new_figure(6.8, tall + 0.9, columns=(1, 1))
    smooth = "nearest" if max(height, width) < 64 else "antialiased"
    left.imshow(_rgb(one.pixels), interpolation=smooth)
    right.imshow(under_heat(one.pixels, one.heat), interpolation=smooth)
    for axes, title in (
        (left, shorten(printable(one.input.rsplit("/", 1)[-1]), 34)),
        (right, _title(one)),
    ):
        axes.set_axis_off()
        axes.set_title(title, fontsize=10).set_parse_math(False)
    return fig


def _rgb(pixels: Any) -> Any:
    return pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels


def _title(one: Explanation) -> str:
    value = "" if one.value is None else f" {one.value:.3f}"
    return f"{shorten(printable(one.target), 24)}{value}, {_METHODS[one.method]}"


def _bars(one: Explanation) -> Figure:
    in_time = bool(one.parts) and one.parts[0].part.what == "step"
    parts = one.parts if in_time else one.ranked[:_BARS]
    fig, (axes,) = new_figure(6.4, 0.9 + 0.26 * len(parts), columns=(1,))
    colours = [BLUE if effect.effect > 0 else ORANGE for effect in parts]
    names = [shorten(printable(effect.part.name), 30) for effect in parts]
    at = range(len(parts))
    axes.barh(at, [effect.effect for effect in parts], color=colours, height=0.72)
    axes.set_yticks(at, names)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    add_grid(axes)
    value = "" if one.value is None else f" {number(one.value)}"
    title = f"{shorten(printable(one.input), 40)}: {shorten(printable(one.target), 24)}{value}"
    axes.set_title(title, fontsize=10).set_parse_math(False)
    axes.set_xlabel("effect", fontsize=10)
    return fig
