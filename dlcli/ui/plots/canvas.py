"""The paper that pictures are drawn on: matplotlib's objects on an Agg canvas.

No pyplot, no window, nothing global is set, so that it works in threads, in notebooks and without a
display. Colours are of Okabe and Ito's palette, which colour-blind people tell apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.files import atomic_file
from dlcli.wording import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DPI = 150
RUN_WIDTH = 60  # of the name of a run
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"


def new_figure(width: float, height: float, *, columns: Sequence[int]) -> tuple[Figure, list[Axes]]:
    """A white figure of ``width`` x ``height`` inches and its panels, as wide as ``columns`` say."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    panels = fig.subplots(1, len(columns), squeeze=False, gridspec_kw={"width_ratios": list(columns)})
    return fig, list(panels[0])


def new_stack(width: float, height: float, *, rows: int) -> tuple[Figure, list[Axes]]:
    """A white figure of ``width`` x ``height`` inches and its panels, below each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    return fig, list(fig.subplots(rows, 1, squeeze=False)[:, 0])


def save_figure(fig: Figure, path: Path) -> Path:
    """Write a PNG as a whole or not at all; returns ``path``. Raises: DlcliError when it cannot."""
    with atomic_file(path) as tmp, warnings.catch_warnings():
        # Names in scripts that matplotlib's own font lacks show as boxes; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        # Said where looking for the legend's place took a second, as it does on a busy machine.
        warnings.filterwarnings("ignore", message="Creating legend with loc", category=UserWarning)
        fig.savefig(tmp, format="png", bbox_inches="tight", pad_inches=0.12)
    return path


def add_run_name(fig: Figure, run: str, text: str = "") -> None:
    """Title a figure with the name of its run, where that is known, and a text."""
    parts = [shorten(printable(run), RUN_WIDTH)] if run else []
    if title := ": ".join([*parts, *([text] if text else [])]):
        fig.suptitle(title, fontsize=12).set_parse_math(False)


def add_grid(axes: Axes) -> None:
    """A light grid below the data, and no frame above and to the right."""
    axes.tick_params(labelsize=9)
    axes.grid(True, color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def log_axis(axis: Axis) -> None:
    """Figures on a logarithmic axis that need no powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
