"""The picture of a learning rate sweep, as a PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.ui.plots.canvas import BLUE, GREY, ORANGE, add_grid, new_figure, save_figure

if TYPE_CHECKING:
    from dlcli.training.autotune.lr_sweep import LrSweep


def save_sweep(path: Path, sweep: LrSweep) -> Path:
    """Draw the losses of a sweep by learning rate, and the rate they suggest; returns ``path``.

    Losses far above the first ones, where a sweep ends, are cut off. Raises: DlcliError when the
    picture cannot be written.
    """
    fig, (axes,) = new_figure(7.0, 4.2, columns=(1,))
    axes.plot(sweep.rates, sweep.losses, color=GREY, linewidth=0.8, alpha=0.6, label="each step")
    axes.plot(sweep.rates, sweep.smoothed, color=BLUE, linewidth=2, label="smoothed")
    axes.axvline(sweep.suggestion, color=ORANGE, linestyle="--", linewidth=1.5)
    at = min(range(len(sweep.rates)), key=lambda i: abs(sweep.rates[i] / sweep.suggestion - 1))
    label = f"--lr {sweep.suggestion:g}"
    axes.plot(
        [sweep.suggestion], [sweep.smoothed[at]], color=ORANGE, marker="o", linestyle="", label=label
    )
    axes.set_xscale("log")
    shown = sweep.smoothed[: max(10, len(sweep.smoothed) // 2)]
    low, high = min(sweep.smoothed), max(shown)
    room = 0.15 * (high - low) or 0.1 * abs(high) or 0.1
    axes.set_ylim(min(low, 0.0 if low < 0.2 * high else low) - room, high + 2 * room)
    axes.set_title("loss by learning rate", fontsize=11)
    axes.set_xlabel("learning rate", fontsize=10)
    add_grid(axes)
    axes.legend(fontsize=9, frameon=False)
    return save_figure(fig, path)
