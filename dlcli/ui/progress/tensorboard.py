"""TensorBoard: a sink that writes a run's events as event files, for `tensorboard --logdir runs`.

Tags: train/... and val/... by metric; lr, grad_norm, samples_per_s, memory_mib, skipped_steps; the
graph; weights/... and gradients/... as histograms; val/examples as pictures; best/... next to the
settings on the HPARAMS page. The step is always the optimizer step.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dlcli.errors import DlcliError
from dlcli.events import (
    Emit,
    EpochDone,
    Event,
    Examples,
    Histograms,
    ModelReady,
    RunFinished,
    RunStarted,
    StepDone,
    Warned,
    ignore,
)
from dlcli.files import writing
from dlcli.runs.folder import RunFolder
from dlcli.ui.progress.run_sinks import register_sink
from dlcli.wording import first_line, printable, shorten

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

FLUSH_S = 10  # seconds of curves that a killed run may lose
GRAPH_SAMPLES = 2  # a graph does not change with the batch
COLUMNS = 8  # of the grid of pictures
CAPTION_WIDTH = 18
WRONG = "#c00000"

# Settings that affect the result, not where a run is trained or how it is logged and saved.
_HPARAM_GROUPS = {"model", "loss", "optim", "augment"}
_HPARAMS = {
    "data.data", "data.balance", "data.window", "data.horizon", "data.tokenizer", "fit.epochs",
    "fit.batch_size", "fit.max_steps", "fit.amp", "fit.ema", "fit.swa", "fit.patience", "fit.seed",
}  # fmt: skip


@register_sink("tensorboard", enabled=lambda fit: fit.tensorboard)
def open_tensorboard(run: RunFolder, emit: Emit) -> AbstractContextManager[Emit]:
    """Write the events of a run below its ``tensorboard`` folder."""
    return TensorBoard(run.path / "tensorboard", emit=emit)


class TensorBoard:
    """Write events below ``folder``; a resumed run is given the same folder again.

    ``emit`` gets a warning where a model's graph cannot be drawn. Raises: DlcliError when tensorboard
    is not installed; when called, where the disk is full or the folder is read-only.
    """

    def __init__(self, folder: Path, *, emit: Emit = ignore) -> None:
        check_installed()
        self.folder = folder
        self._emit = emit
        self._writer: Any = None
        self._drawn = False  # whether the folder holds a graph
        self._started: RunStarted | None = None
        self._best: EpochDone | None = None
        self._logged_step = -1
        self._excepthook = threading.excepthook

    def __call__(self, event: Event) -> None:
        """Write an event; kinds without a place in TensorBoard are ignored."""
        with writing(self.folder):
            if isinstance(event, RunStarted):
                self._start(event)
            elif isinstance(event, StepDone):
                self._step(event)
            elif isinstance(event, EpochDone):
                self._epoch(event)
            elif isinstance(event, ModelReady):
                self._graph(event)
            elif isinstance(event, Histograms):
                self._histograms(event)
            elif isinstance(event, Examples):
                picture = draw_examples(event.images, event.true, event.predicted)
                self._open().add_image("val/examples", picture, event.step, dataformats="HWC")
            elif isinstance(event, RunFinished):
                self._finish(event)

    def close(self) -> None:
        """Flush and close the file; a later event opens another. Raises: CannotWrite."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                with writing(self.folder):
                    writer.close()
            finally:
                threading.excepthook = self._excepthook

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, purge_step: int | None = None) -> Any:
        if self._writer is None:
            threading.excepthook = self._thread_failed
            self._drawn |= any(self.folder.glob("events.out.tfevents.*"))
            self._writer = _writer_class()(str(self.folder), purge_step=purge_step, flush_secs=FLUSH_S)
        return self._writer

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """Print no traceback of the writer's thread: the next event, or `close`, raises its error."""
        if not type(args.thread).__module__.startswith("tensorboard."):
            self._excepthook(args)

    def _start(self, event: RunStarted) -> None:
        """Steps after the resumed state are taken again: TensorBoard hides what it has of them."""
        self.close()
        self._started = event
        self._open(purge_step=event.resumed_step + 1)

    def _scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """NaN and infinities are written as they are: TensorBoard marks them."""
        for tag, value in values.items():
            if value is not None:
                self._open().add_scalar(tag, value, step)

    def _step(self, event: StepDone) -> None:
        self._logged_step = event.step
        self._scalars(
            {
                "train/loss": event.loss,
                "train/accuracy": event.accuracy,
                "lr": event.lr,
                "grad_norm": event.grad_norm,
                "samples_per_s": event.samples_per_s,
                "memory_mib": event.memory_mib,
                "skipped_steps": event.skipped or None,
            },
            event.step,
        )

    def _epoch(self, event: EpochDone) -> None:
        train = {"train/loss": event.loss, "train/accuracy": event.accuracy, "lr": event.lr}
        if self._logged_step != event.step:  # else the last step wrote the same
            self._scalars(train, event.step)
        self._scalars({f"val/{name}": value for name, value in event.val.items()}, event.step)
        self._open().flush()
        if event.improved:
            self._best = event

    def _graph(self, event: ModelReady) -> None:
        from torch.jit._trace import TracerWarning

        writer = self._open()
        if self._drawn:  # a second one would only replace the first
            return
        self._drawn = True
        try:
            with _eval_mode(event.module), redirect_stdout(io.StringIO()), warnings.catch_warnings():
                # torch prints what fails, warns of every shape that a graph fixes, and calls tracing
                # deprecated (2.15), but its own add_graph knows no other way.
                warnings.filterwarnings("ignore", category=TracerWarning)
                warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
                warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
                writer.add_graph(event.module, tuple(t[:GRAPH_SAMPLES] for t in event.inputs))
        except OSError:
            raise
        except Exception as exc:  # a model's own code runs here, which may raise anything
            reason = first_line(exc)
            self._emit(Warned(f"TensorBoard shows no graph of this model: {reason}"))

    def _histograms(self, event: Histograms) -> None:
        for group, histograms in (("weights", event.weights), ("gradients", event.gradients)):
            for name, (counts, edges) in histograms.items():
                _add_histogram(self._open(), f"{group}/{name}", counts, edges, event.step)

    def _finish(self, event: RunFinished) -> None:
        metrics = {f"best/{event.monitor}": event.best}
        if self._best is not None and self._best.epoch == event.best_epoch:
            metrics |= {f"best/{name}": value for name, value in self._best.val.items()}
        self._scalars(metrics, event.step)
        if self._started is not None:
            from torch.utils.tensorboard.summary import hparams

            writer = self._open()
            # SummaryWriter.add_hparams would put them into a run of their own, with a time for a name.
            for summary in hparams(hyperparameters(self._started), metrics):  # type: ignore[no-untyped-call]
                writer.file_writer.add_summary(summary)
        self._open().flush()


def hyperparameters(event: RunStarted) -> dict[str, bool | int | float | str]:
    """Return the hyperparameters by dotted key, as TensorBoard accepts them: no None, no lists.

    "auto" is replaced by the value that the run resolved it to.
    """
    known = {
        **event.settings,
        "model.name": event.model,
        "data.data": event.data,
        "optim.lr": event.lr,
        "fit.batch_size": event.batch_size,
    }
    values: dict[str, bool | int | float | str] = {}
    for key, value in known.items():
        if key in _HPARAMS or key.partition(".")[0] in _HPARAM_GROUPS:
            parts = value.items() if isinstance(value, Mapping) else ((None, value),)
            for name, part in parts:
                full = key if name is None else f"{key}.{name}"
                if isinstance(part, bool | int | float | str):
                    values[full] = part
                elif part not in (None, (), [], {}):
                    values[full] = str(part)
    return values


def draw_examples(images: Any, true: Sequence[str], predicted: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Draw a grid of images titled by class; a wrong one has a red frame and its prediction.

    ``images`` are uint8 (n, H, W, C), C 1 or 3. Returns RGB pixels, uint8 (height, width, 3).
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(true))
    rows = math.ceil(len(true) / columns)
    fig = Figure(figsize=(1.5 * columns, 1.9 * rows), dpi=100, facecolor="white")
    fig.subplots_adjust(0.04 / columns, 0.04 / rows, 1 - 0.04 / columns, 1 - 0.2 / rows, 0.08, 0.35)
    canvas: Any = FigureCanvasAgg(fig)
    panels = list(fig.subplots(rows, columns, squeeze=False).flat)
    for axes, image, name, prediction in zip(panels, np.asarray(images), true, predicted, strict=False):
        grey = image.shape[2] == 1
        pixels = image[:, :, 0] if grey else image
        axes.imshow(pixels, cmap="gray" if grey else None, vmin=0, vmax=255, interpolation="nearest")
        right = name == prediction
        caption = _caption(name) if right else f"{_caption(name)}\npredicted {_caption(prediction)}"
        axes.set_title(caption, fontsize=8, pad=3, color="black" if right else WRONG)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=not right, color=WRONG, linewidth=2)
    for axes in panels[len(true) :]:
        axes.set_axis_off()
    with warnings.catch_warnings():
        # Names in scripts that matplotlib's own font lacks show as boxes; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _caption(name: str) -> str:
    return shorten(printable(name), CAPTION_WIDTH).replace("$", r"\$")


def _add_histogram(writer: Any, tag: str, counts: Any, edges: Any, step: int) -> None:
    """``counts`` (bins,) and ``edges`` (bins + 1,); sums are taken at the middle of each bin."""
    import numpy as np

    counts, edges = np.asarray(counts, np.float64), np.asarray(edges, np.float64)
    if not np.isfinite(edges).all() or not counts.sum() > 0:  # of NaN there is no histogram
        return
    middles = (edges[:-1] + edges[1:]) / 2
    writer.add_histogram_raw(
        tag,
        min=float(edges[0]),
        max=float(edges[-1]),
        num=int(counts.sum()),
        sum=float(counts @ middles),
        sum_squares=float(counts @ middles**2),
        bucket_limits=edges[1:].tolist(),
        bucket_counts=counts.tolist(),
        global_step=step,
    )


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Set eval mode, without gradients; modes and random generators are restored afterwards.

    In eval mode no statistics are updated. add_graph itself would put all parts into one mode, so that a
    frozen batch norm would train again.
    """
    import torch

    modes = {part: part.training for part in module.modules()}
    device = next((t.device for t in module.parameters()), torch.device("cpu"))
    forked = [device] if device.type in ("cuda", "xpu") else []
    try:
        module.eval()
        kind = device.type if forked else "cuda"
        with torch.random.fork_rng(forked, device_type=kind), torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def check_installed() -> None:
    """Check that tensorboard is installed. Raises: DlcliError."""
    _writer_class()


def _writer_class() -> Any:
    """torch's SummaryWriter. Raises: DlcliError when tensorboard is missing or too old for it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as exc:
        raise DlcliError(
            f"--tensorboard needs the tensorboard package: {exc}",
            hint='pip install "dlcli[tensorboard]"',
        ) from exc
    return SummaryWriter
