"""Pictures of what a model will see, as PNG files.

Drawn like the curves of `dlcli.ui.plots.run`: objects of matplotlib on an Agg canvas, no global state.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.files import atomic_file
from dlcli.wording import printable, shorten

if TYPE_CHECKING:
    from dlcli.data.base import Pixels, Targets
    from dlcli.task import TaskSpec

DPI = 150
SIDE = 1.4  # inches of a picture's longer side
CAPTION_PT = 7.5
CAPTION_WIDTH = 22  # longer names are cut in the middle
SMALLEST_SHARE = 0.005  # of a class in a mixed target, to be named


@dataclass(frozen=True)
class AugmentRow:
    """One sample: its pictures uint8 (H, W, C), the original first, and a caption for each."""

    pictures: Sequence[Pixels]
    captions: Sequence[str]


def save_augment_grid(path: Path, rows: Sequence[AugmentRow]) -> Path:
    """Draw a row for each sample, the original on the left; returns ``path``.

    Raises: DlcliError when the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert rows, "a grid needs at least one row"
    columns = max(len(row.pictures) for row in rows)
    tall, wide = rows[0].pictures[0].shape[:2]
    width, height = SIDE * wide / max(tall, wide), SIDE * tall / max(tall, wide)
    fig = Figure(
        figsize=(columns * (width + 0.08), len(rows) * (height + 0.25) + 0.3),
        dpi=DPI,
        layout="constrained",
        facecolor="white",
    )
    FigureCanvasAgg(fig)
    panels = fig.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, panels, strict=True):
        for axes in line:
            axes.set_axis_off()
        for axes, picture, caption in zip(line, row.pictures, row.captions, strict=False):
            grey = picture.shape[2] == 1
            axes.imshow(
                picture[:, :, 0] if grey else picture,
                cmap="gray" if grey else None,
                vmin=0,
                vmax=255,
                interpolation="nearest",  # what the model gets, not what looks better
            )
            axes.set_title(_lines(caption), fontsize=CAPTION_PT, pad=2)
    fig.text(0, 1.005, "original", fontsize=9, weight="bold", va="bottom")
    if columns > 1:
        fig.text(1 / columns, 1.005, "as seen in training", fontsize=9, weight="bold", va="bottom")
    with atomic_file(path) as tmp, warnings.catch_warnings():
        # Names in scripts that matplotlib's own font lacks show as boxes; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        fig.savefig(tmp, format="png", bbox_inches="tight", pad_inches=0.1)
    return path


def captions(targets: Targets, task: TaskSpec) -> list[str]:
    """What each sample is, for a picture: its class, the shares of several, its labels, its numbers.

    ``targets`` are int64 (n,) or shares (n, K) of a classifier, (n, K) of labels, (n, R) numbers.
    """
    if task.class_names and targets.ndim == 1:
        return [task.class_names[target] for target in targets.tolist()]
    if task.class_names:
        return [_shares(row, task.class_names) for row in targets.tolist()]
    return [", ".join(f"{number:.4g}" for number in row) for row in targets.tolist()]


def _shares(row: Sequence[float], names: Sequence[str]) -> str:
    """ "0.72 dress + 0.28 hat"; whole labels without their 1."""
    held = sorted(((s, n) for s, n in zip(row, names, strict=True) if s >= SMALLEST_SHARE), reverse=True)
    parts = [name if share > 1 - SMALLEST_SHARE else f"{share:.2f} {name}" for share, name in held]
    return " + ".join(parts) or "none"


def _lines(caption: str) -> str:
    """At most two lines, the second from a plus sign on, without matplotlib's own markup."""
    first, plus, rest = printable(caption).partition(" + ")
    lines = [first, f"+ {rest}"] if plus else [first]
    return "\n".join(shorten(line, CAPTION_WIDTH).replace("$", r"\$") for line in lines)
