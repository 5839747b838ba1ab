"""What of a sample a prediction depends on: Grad-CAM of images, occlusion of everything else.

The effect of a part is the score of the target as it is minus the score without the part. Scores of
classes are log-odds, which do not saturate as probabilities do, of numbers the values in the data's own
units; of a forecast the effect is the mean absolute change of its steps, in stds of their targets. No
torch here but where a map of gradients is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs, Items, Listed, Reader, SeriesRows
from dlcli.data.kinds import kind_of
from dlcli.data.occlusion import Part
from dlcli.data.prepare import trim
from dlcli.data.previews import CELL, Preview, image_preview, under_heat
from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.evaluation.decisions import decision_scores
from dlcli.evaluation.metrics.base import Floats
from dlcli.evaluation.predict import row_function, unscale
from dlcli.formats.base import Artifact, Outputs
from dlcli.runs.folder import as_typed, run_of
from dlcli.task import ImageInput, SeriesInput, TaskSpec
from dlcli.wording import shorten

Method = Literal["auto", "gradcam", "occlusion"]
EFFECTS = 5  # of a sample in a report
Heat = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PartEffect:
    """A part of a sample, its effect on the target's score, and the target without it.

    ``without`` is a probability of a class, a number of a regression, and None of a forecast.
    """

    part: Part
    effect: float
    without: float | None


@dataclass(frozen=True)
class Explanation:
    """What one prediction depends on.

    ``row`` is the prediction as `predict` gives it, of a forecast its first step. ``target`` is what is
    explained, "" for all steps and targets of a forecast, and ``value`` its probability or number.
    ``heat`` (H, W), from 0 to 1, is over the model's ``pixels`` (H, W, C); both are None of other data.
    ``parts`` are in the order of the sample; of Grad-CAM there are none. ``curves`` are the steps of a
    series by channel, as the model sees them: standardized. ``layer`` is that of Grad-CAM, else "".
    """

    input: str
    method: str
    how: str
    target: str
    value: float | None
    row: dict[str, Any]
    parts: tuple[PartEffect, ...] = ()
    heat: Heat | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    text: str = ""
    curves: tuple[tuple[str, npt.NDArray[np.float32]], ...] = ()
    layer: str = ""

    @property
    def ranked(self) -> list[PartEffect]:
        """The parts, the largest effect first, in whichever direction."""
        return sorted(self.parts, key=lambda one: -abs(one.effect))

    def added_to(self, preview: Preview) -> Preview:
        """The preview of the sample with its heat map, or the parts with the largest effects."""
        if self.heat is not None and self.pixels is not None:
            return replace(preview, heat=image_preview(under_heat(self.pixels, self.heat)).image)
        effects = tuple((shorten(one.part.name, CELL), one.effect) for one in self.ranked[:EFFECTS])
        return replace(preview, effects=effects)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: parts in the order of the sample, maps in rows from the top, of 2 decimals."""
        parts = [
            {"part": one.part.name, "what": one.part.what, "effect": one.effect, "without": one.without,
             **({"start": list(one.part.start), "stop": list(one.part.stop)} if one.part.start else {})}
            for one in self.parts
        ]  # fmt: skip
        first = {"input": self.input, "prediction": self.row, "target": self.target, "value": self.value}
        known = {**first, "method": self.method, **({"layer": self.layer} if self.layer else {})}
        if self.heat is not None:
            known["heat"] = self.heat.astype(np.float64).round(2).tolist()
        return {**known, "how": self.how, "parts": parts}


class Explainer:
    """Explains predictions of an artifact, one sample at a time.

    ``method`` "auto" is Grad-CAM for images where the model can be differentiated and has a layer with
    a map over the image, else occlusion. Raises: UsageError for a method, a layer or a task that do not
    fit; DlcliError for Grad-CAM of a file that has no gradients.
    """

    def __init__(self, artifact: Artifact, *, method: Method = "auto", layer: str | None = None) -> None:
        self.artifact, self.task = artifact, artifact.card.task
        check_explained(self.task)
        if layer is not None and method == "occlusion":
            raise UsageError("--layer is of Grad-CAM, and occlusion looks into no layer")
        wanted = method == "gradcam" or layer is not None
        if wanted:
            _check_gradients(artifact)
        self._method = "gradcam" if wanted else method
        self._layer = layer

    def explain(self, reader: Reader, index: int, target: int | None = None) -> Explanation | None:
        """Explain a sample of a reader, by default for its prediction; None for an unreadable one."""
        inputs, readable = reader.read(np.array([index], np.int64))
        if not len(readable):
            return None
        items, name = reader.samples.items.take(readable), reader.samples.ids[index]
        return self.explain_inputs(name, items, trim(inputs, self.task), target, reader.series(readable))

    def explain_inputs(
        self,
        name: str,
        items: Items,
        inputs: Inputs,
        target: int | None = None,
        series: SeriesRows | None = None,
    ) -> Explanation:
        """Explain one sample, given its inputs (1, ...) as `Reader.read` and `trim` give them."""
        task, predict = self.task, self.artifact.predict
        outputs = predict(inputs)
        if not np.isfinite(outputs).all():
            raise DlcliError(f"{name}: the model's output is NaN or infinite")
        chosen = _predicted(outputs, task) if target is None else target
        row = row_function(predict, task, 1, 1)(inputs, series)[0][0]
        layer = self._layer_for(inputs)
        common: dict[str, Any] = {"input": name, "row": row, "target": _name(task, chosen)}
        common["value"] = _shown(scores(outputs, task, chosen)[0], task)
        if isinstance(task.input, ImageInput):
            common["pixels"] = inputs[0][0]
        if layer:
            heat = _grad_cam(self.artifact, inputs, layer, chosen or 0)
            how = f"Grad-CAM of the layer {layer}"
            return Explanation(**common, method="gradcam", how=how, heat=heat, layer=layer)
        parts, how = _occlude(predict, items, inputs, task, outputs, chosen)
        if isinstance(task.input, ImageInput):
            common["heat"] = _heat_of(parts, inputs[0].shape[1:3])
        if isinstance(task.input, SeriesInput):
            common["curves"] = tuple(zip(task.input.channels, inputs[0][0].T, strict=True))
        text = str(items.values[0]) if isinstance(items, Listed) and task.input.kind == "text" else ""
        return Explanation(**common, method="occlusion", how=how, parts=parts, text=text)

    def _layer_for(self, inputs: Inputs) -> str:
        """The layer of Grad-CAM; "" where the sample is explained by occlusion. Raises: UsageError."""
        if self._method == "occlusion" or not isinstance(self.task.input, ImageInput):
            return ""
        if not self.artifact.format.trainable:
            return ""
        if self._layer is None:
            from dlcli.zoo.grad_cam import feature_layer

            self._layer = feature_layer(self.artifact.module(), _tensors(self.artifact, inputs)) or ""
            if not self._layer and self._method == "gradcam":
                raise UsageError(
                    "--method gradcam: the model has no layer with a map over the image near its head",
                    hint="--method occlusion explains every model; --layer names a layer",
                )
        return self._layer


def check_explained(task: TaskSpec) -> None:
    """Raises: UsageError for a task or a kind of data that has no explanations."""
    if task.kind in ("seq2seq", "embedding") or kind_of(task).occlude is None:
        what = task.kind if task.kind in ("seq2seq", "embedding") else f"{task.input.kind} data"
        raise UsageError(
            f"explanations are not for {what}",
            hint="they are of classes, labels, numbers, forecasts; of images, texts, tables, series",
        )


def target_index(task: TaskSpec, name: str | None) -> int | None:
    """The output of a class or target by name; None for None. Raises: UsageError."""
    names = [*task.class_names, *(target.name for target in task.targets)]
    if name is None or name in names:
        return None if name is None else names.index(name)
    raise UsageError(f"--target {name}: the model has no such output", hint=nearest(name, names))


def scores(outputs: Outputs, task: TaskSpec, target: int | None) -> Floats:
    """The scores of a target, (n,); of a forecast the steps of its targets in stds, (n, steps)."""
    wide = outputs.astype(np.float64)
    if task.kind == "classification":
        assert target is not None
        others = np.delete(wide, target, axis=1)
        odds: Floats = wide[:, target] - np.logaddexp.reduce(others, axis=1)
        return odds
    if task.kind == "multilabel":
        return wide[:, target]
    if task.kind == "regression":
        return unscale(outputs, task)[:, target]
    chosen = wide if target is None else wide[..., target]
    return chosen.reshape(len(chosen), -1)


def _occlude(
    predict: Callable[[Inputs], Outputs],
    items: Items,
    inputs: Inputs,
    task: TaskSpec,
    outputs: Outputs,
    target: int | None,
) -> tuple[tuple[PartEffect, ...], str]:
    """The effect of each part, and how parts are replaced."""
    occlude = kind_of(task).occlude
    assert occlude is not None
    occlusion = occlude(items, inputs, task)
    full = scores(outputs, task, target)
    sums, counts = np.zeros((len(occlusion.parts), *full.shape[1:])), np.zeros(len(occlusion.parts))
    changes = np.zeros(len(occlusion.parts))
    for batch, indices in occlusion.batches:
        without = scores(predict(batch), task, target)
        np.add.at(sums, indices, without)
        np.add.at(counts, indices, 1)
        if task.kind == "forecast":
            np.add.at(changes, indices, np.abs(without - full).mean(axis=1))
    if task.kind == "forecast":
        changed = (changes / counts).tolist()
        pairs = zip(occlusion.parts, changed, strict=True)
        return tuple(PartEffect(part, effect, None) for part, effect in pairs), occlusion.method
    means = (sums / counts).tolist()
    return tuple(
        PartEffect(part, float(full[0]) - mean, _shown(mean, task))
        for part, mean in zip(occlusion.parts, means, strict=True)
    ), occlusion.method


def _heat_of(parts: tuple[PartEffect, ...], size: tuple[int, ...]) -> Heat:
    """The mean effect of the regions over each pixel, where it is for the target, up to 1."""
    total, count = np.zeros(size), np.zeros(size)
    for one in parts:
        (top, left), (bottom, right) = one.part.start, one.part.stop
        total[top:bottom, left:right] += one.effect
        count[top:bottom, left:right] += 1
    return _up_to_one(np.maximum(total / np.maximum(count, 1), 0))


def _grad_cam(artifact: Artifact, inputs: Inputs, layer: str, target: int) -> Heat:
    """The map of a layer, in the size of the image."""
    from PIL import Image

    from dlcli.zoo.grad_cam import grad_cam

    small = grad_cam(artifact.module(), _tensors(artifact, inputs), layer, target)
    height, width = inputs[0].shape[1:3]
    large = Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)
    return _up_to_one(np.maximum(np.asarray(large, dtype=np.float64), 0))


def _tensors(artifact: Artifact, inputs: Inputs) -> Any:
    """The inputs as the module takes them, on its device."""
    import torch

    from dlcli.zoo.forward import model_inputs

    device = next(artifact.module().parameters()).device
    with torch.inference_mode(False):
        return model_inputs([torch.from_numpy(array).to(device) for array in inputs], artifact.card.task)


def _up_to_one(heat: Floats) -> Heat:
    top = float(heat.max())
    return (heat / top if top > 0 else heat).astype(np.float32)


def _check_gradients(artifact: Artifact) -> None:
    """Raises: UsageError for other data than images, DlcliError for a file without gradients."""
    if not isinstance(artifact.card.task.input, ImageInput):
        kind = artifact.card.task.input.kind
        raise UsageError(
            f"Grad-CAM is for images, and this model takes {kind} data",
            hint="leave out --method and --layer",
        )
    if artifact.format.trainable:
        return
    run = run_of(artifact.path)
    own = "" if run is None else f"dlcli explain {as_typed(run.best)} has them; "
    raise DlcliError(
        f"{artifact.path} is a {artifact.format.name} file, which has no gradients for Grad-CAM",
        hint=f"{own}--method occlusion explains every file",
    )


def _predicted(outputs: Outputs, task: TaskSpec) -> int | None:
    """The output that is explained unless one is named: the likeliest class, the first number."""
    if task.class_names:
        return int(decision_scores(outputs, task)[0].argmax())
    return 0 if task.kind == "regression" or len(task.targets) == 1 else None


def _name(task: TaskSpec, target: int | None) -> str:
    if target is None:
        return ""
    return task.class_names[target] if task.class_names else task.targets[target].name


def _shown(score: Any, task: TaskSpec) -> float | None:
    """The probability of log-odds, a number as it is, None of the many scores of a forecast."""
    if task.kind == "forecast":
        return None
    value = float(score)
    if task.kind == "regression":
        return value
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
