"""A first prediction before a model is announced: the first request does not wait for late imports."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from dlcli.errors import DlcliError
from dlcli.serve.batching import MicroBatcher
from dlcli.serve.gateway import log_line
from dlcli.serve.predictions import Upload, predict_uploads, read_options
from dlcli.task import ImageInput, PairsInput, TabularInput, TextInput

if TYPE_CHECKING:
    from pathlib import Path

    from dlcli.serve.models import ServedModel
    from dlcli.task import TaskSpec

_SIDE = 8  # pixels


def warm_up(model: ServedModel, folder: Path) -> None:
    """Send a made-up sample through the path of ``/predict``; it is neither counted nor remembered.

    Nothing is sent to a model whose kind of input has no sample here.
    """
    upload = example(model.task)
    if upload is None:
        return
    batches = MicroBatcher(model.artifact.predict, model.task, max_batch=1, max_wait_s=0.0)
    try:
        alone = replace(model, batches=batches)
        predict_uploads(alone, [upload], read_options({}, None), folder, threading.Semaphore())
    except DlcliError as exc:  # the model may still take what clients have
        log_line("warning", message=f"{model.name} is not warmed up: {exc.message}")
    finally:
        batches.close()


def example(task: TaskSpec) -> Upload | None:
    """A body that a model predicts: a black photo, a row of missing cells, a text of one letter."""
    spec = task.input
    if isinstance(spec, ImageInput):
        return Upload("example", "image/png", _photo())
    if isinstance(spec, TabularInput):
        from dlcli.data.tables.columns import column_names

        row = dict.fromkeys(column_names(spec))
        return Upload("example", "application/json", json.dumps(row).encode())
    if isinstance(spec, TextInput | PairsInput):
        pair = isinstance(spec, TextInput) and spec.pair
        return Upload("example", "text/plain", b"a\ta\n" if pair else b"a\n")
    return None


def _photo() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE)).save(out, "PNG")
    return out.getvalue()
