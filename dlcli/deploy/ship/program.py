"""The program of a shipped folder: run on a sample in a process of its own, compared with `predict`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.deploy.parity import RAW_TOLERANCE
from dlcli.deploy.raw_inputs import images_of
from dlcli.deploy.reference import ReferenceEvaluator
from dlcli.evaluation.predict import predict
from dlcli.files import temporary_folder
from dlcli.formats.base import ModelFile, open_artifact
from dlcli.pixels.decode import whole_image
from dlcli.subprocesses import describe_exit
from dlcli.task import ImageInput, TaskSpec

_SOME = 16  # samples to find one that can be read
_TIMEOUT_S = 300.0


def why_no_program(program: Path, model: ModelFile, reference: ReferenceEvaluator) -> str:
    """Why a program for images does not do what `predict` does with ``model``; "" where it does.

    It is asked about the first sample of ``reference`` that can be read.
    """
    with temporary_folder() as folder:
        image = _image(reference, folder)
        if image is None:
            return "there is no image to try it on"
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(program), str(image)],
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return f"on {image.name} it did not end within {_TIMEOUT_S:g} s"
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            return f"on {image.name} it ended with {describe_exit(done.returncode)}: {last}"
        task = model.card.task
        artifact = open_artifact(model, device="cpu", trust=True)
        kind = kind_of(task)
        reader = kind.reader(kind.inputs([str(image)], task), task, ReadOptions())
        (prediction,) = predict(artifact.predict, reader, task)
    if prediction.error:
        return f"predict cannot read {image.name}: {prediction.error}"
    own, row = json.loads(done.stdout), dict(prediction.rows[0])
    if not agrees(own, row, task):
        shown, predicted = ({k: v[k] for k in own if k in v and k != "input"} for v in (own, row))
        return f"on {image.name} it says {shown} where predict says {predicted}"
    return ""


def agrees(own: Mapping[str, Any], row: Mapping[str, Any], task: TaskSpec) -> bool:
    """Whether the answer of a program is that of `predict`, a row of it."""
    if task.kind == "regression":
        names = [target.name for target in task.targets]
        values = row["values"] if len(names) > 1 else {names[0]: row["value"]}
        return all(
            abs(own[t.name] - values[t.name]) <= RAW_TOLERANCE * max(abs(values[t.name]), t.std)
            for t in task.targets
        )
    if any(own[key] != row[key] for key in ("label", "labels") if key in own):
        return False
    keys = [key for key in ("probability", "probabilities", "embedding") if key in own]
    pairs = [(np.array(list(_numbers(own[key]))), np.array(list(_numbers(row[key])))) for key in keys]
    return all(a.shape == b.shape and bool(np.all(abs(a - b) <= RAW_TOLERANCE)) for a, b in pairs)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    yield from value if isinstance(value, list) else [value]


def _image(reference: ReferenceEvaluator, folder: Path) -> Path | None:
    """The file of an image that can be read; pixels without one become a file in ``folder``."""
    from PIL import Image

    raw, spec = reference.raw_samples(_SOME), reference.task.input
    assert isinstance(spec, ImageInput)
    image = None if raw is None else next(images_of(raw[1]), None)
    if image is None or isinstance(image, Path):
        return image
    pixels, path = whole_image(image, spec), folder / "sample.png"
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)
    return path
