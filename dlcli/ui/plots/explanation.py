"""Pictures of explanations: an image and its heat map, effects along a series, or bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.data.previews import under_heat
from dlcli.ui.plots.canvas import BLUE, ORANGE, add_grid, new_figure, new_stack, save_figure
from dlcli.ui.text import signed
from dlcli.wording import number, plural, printable, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlcli.evaluation.explanations import Explanation

_BARS = 20
_STYLES = ("-", "--", ":", "-.")  # of as many channels
_METHODS = {"gradcam": "Grad-CAM", "occlusion": "occlusion"}


def save_explanation(one: Explanation, path: Path) -> Path:
    """Write the picture of an explanation; returns ``path``. Raises: DlcliError when it cannot."""
    draw = _heat if one.heat is not None else _along if one.curves else _bars
    return save_figure(draw(one), path)


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


def _along(one: Explanation) -> Figure:
    """Draw the channels with the largest effects, shaded by those of spans, and these below."""
    spans = [effect for effect in one.parts if effect.part.what == "step"]
    channels = {
        effect.part.name: effect.effect for effect in one.ranked if effect.part.what == "channel"
    }
    fig, (above, below) = new_stack(8.0, 4.8, rows=2)
    top = max((abs(effect.effect) for effect in spans), default=0.0) or 1.0
    for effect in spans:
        (start,), (stop,) = effect.part.start, effect.part.stop
        colour = BLUE if effect.effect > 0 else ORANGE
        shade = 0.3 * abs(effect.effect) / top
        above.axvspan(start - 0.5, stop - 0.5, color=colour, alpha=shade, linewidth=0)
        below.bar((start + stop - 1) / 2, effect.effect, 0.92 * (stop - start), color=colour)
    order = list(channels)
    curves = sorted(one.curves, key=lambda curve: order.index(curve[0]) if curve[0] in order else 0)
    for (name, values), style in zip(curves, _STYLES, strict=False):
        label = shorten(printable(name), 24)
        label += f" {signed(channels[name])}" if name in channels else ""
        above.plot(
            range(len(values)), values, color="black", linewidth=1.2, linestyle=style, label=label
        )
    if len(one.curves) > 1:
        shown = min(len(_STYLES), len(one.curves))
        title = f"{shown} of {plural(len(one.curves), 'channel')}, with their effects"
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": shown, "frameon": False}
        legend = fig.legend(fontsize=9, title=title, title_fontsize=9, **place)
        for text in legend.get_texts():
            text.set_parse_math(False)
    above.set_title(_bars_title(one), fontsize=10).set_parse_math(False)
    above.set_ylabel("standardized", fontsize=9)
    below.set_ylabel("effect of a span", fontsize=9)
    below.set_xlabel("step", fontsize=9)
    below.axhline(0, color="black", linewidth=0.7)
    length = max(len(values) for _, values in one.curves)
    for axes in (above, below):
        axes.set_xlim(-0.5, length - 0.5)
        add_grid(axes)
    return fig


def _bars(one: Explanation) -> Figure:
    parts = one.ranked[:_BARS]
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
    axes.set_title(_bars_title(one), fontsize=10).set_parse_math(False)
    axes.set_xlabel("effect", fontsize=10)
    return fig


def _bars_title(one: Explanation) -> str:
    value = "" if one.value is None else f" {number(one.value)}"
    name = shorten(printable(one.input.rsplit("/", 1)[-1]), 40)
    return f"{name}: {shorten(printable(one.target or 'forecast'), 24)}{value}"
