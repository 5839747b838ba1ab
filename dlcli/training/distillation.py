"""Knowledge distillation: a student is trained on a teacher's outputs as well as on the targets.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531. The teacher
sees what the student sees, augmentation included, in eval mode and without gradients.

B: samples, K: classes or labels, R: targets, T: tokens, V: vocabulary. Outputs are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlcli.config import LossConfig
from dlcli.errors import UsageError
from dlcli.formats.base import no_weights, open_artifact, recognize
from dlcli.runs.folder import DEFAULT_ROOT, find_artifact
from dlcli.task import (
    PAD,
    ImageInput,
    InputSpec,
    PairsInput,
    SeriesInput,
    TabularInput,
    TaskSpec,
    TextInput,
)
from dlcli.training.losses.base import Loss
from dlcli.zoo.forward import model_inputs

# (outputs, targets, the teacher's outputs) -> (sum, count)
DistillLoss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts to grey


class Teacher:
    """A trained module whose outputs are mapped to the classes and scales of a student."""

    def __init__(
        self, module: nn.Module, own: TaskSpec, student: TaskSpec, device: torch.device
    ) -> None:
        self._module = module.eval().requires_grad_(False)
        self._task = own
        self._order: Tensor | None = None
        self._scales: tuple[Tensor, Tensor] | None = None
        names, student_names = _names(own), _names(student)
        if names != student_names:
            self._order = torch.tensor([names.index(name) for name in student_names], device=device)
        if own.targets != student.targets:
            # In the student's scale: ((a * std + mean) - new mean) / new std, as one product and sum.
            by_name = {target.name: target for target in own.targets}
            pairs = [(by_name[target.name], target) for target in student.targets]
            factors = [theirs.std / new.std for theirs, new in pairs]
            shifts = [(theirs.mean - new.mean) / new.std for theirs, new in pairs]
            self._scales = torch.tensor(factors, device=device), torch.tensor(shifts, device=device)

    def to(self, device: torch.device) -> Teacher:
        """Move to a device; returns the teacher itself."""
        self._module.to(device)
        if self._order is not None:
            self._order = self._order.to(device)
        if self._scales is not None:
            self._scales = self._scales[0].to(device), self._scales[1].to(device)
        return self

    @torch.no_grad()  # not inference mode: autograd saves these outputs for the backward pass
    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The outputs for a batch of the student, before normalisation; the batch is not modified.

        Pixels are uint8 or float (B, H, W, C) and are resized on the device to the teacher's size,
        bilinear and antialiased, both sides independently. Outputs are in the order of the student's
        classes and in its scaled units.
        """
        if isinstance(self._task.input, ImageInput):
            inputs = (_to_image_input(self._task.input, inputs[0]),)
        outputs: Tensor = self._module(*model_inputs(inputs, self._task)).float()
        if self._order is not None:
            outputs = outputs.index_select(-1, self._order)
        if self._scales is not None:
            factors, shifts = self._scales
            outputs = outputs * factors + shifts
        return outputs


def open_teacher(path: Path, task: TaskSpec, device: torch.device) -> Teacher:
    """The teacher that ``path`` names (a model file, a run folder or a run's name), on the device.

    Raises: UsageError when it is of another task than ``task``, has other inputs or is not a file of
    weights; DlcliError when it cannot be read.
    """
    file = recognize(find_artifact(str(path), DEFAULT_ROOT))
    own, named = file.card.task, f"--teacher {path}"
    _check_task(own, task, named)
    _check_inputs(own.input, task.input, named)
    if not file.format.trainable:
        error = no_weights(file)
        raise UsageError(f"--teacher {error.message}", hint=error.hint)
    return Teacher(open_artifact(file, device=str(device)).module(), own, task, device)


def distill(loss: Loss, task: TaskSpec, config: LossConfig) -> DistillLoss:
    """alpha * distillation loss + (1 - alpha) * ``loss``; the count is that of ``loss``.

    The distillation loss is, for classes, temperature^2 times the Kullback-Leibler divergence of the
    softened probabilities (the square keeps the scale of the gradients, section 2 of the paper); for
    labels, the mean of that over the binary labels; for tokens, that of each that is not padding; for
    numbers, the squared error against the teacher's scaled outputs, the mean over a sample's numbers.
    """
    alpha, temperature = config.distill_alpha, config.temperature

    def distillation(outputs: Tensor, targets: Tensor, teacher_outputs: Tensor) -> Tensor:
        # A dimension of 1 would be broadcast without an error.
        assert outputs.shape == teacher_outputs.shape, (outputs.shape, teacher_outputs.shape)
        if task.targets:
            return F.mse_loss(outputs, teacher_outputs, reduction="sum") / outputs[0].numel()
        soft, teacher_outputs = outputs / temperature, teacher_outputs / temperature
        if task.kind == "multilabel":
            parts = _of_labels(soft, teacher_outputs).mean(dim=1)  # (B,)
        elif task.kind == "seq2seq":
            # Weights, not a selection, which would wait for the GPU.
            parts = _of_classes(soft, teacher_outputs) * (targets != PAD)  # (B, T)
        else:
            parts = _of_classes(soft, teacher_outputs)  # (B,)
        return temperature**2 * parts.sum()

    def combined(outputs: Tensor, targets: Tensor, teacher_outputs: Tensor) -> tuple[Tensor, Tensor]:
        total, count = loss(outputs, targets)
        return alpha * distillation(outputs, targets, teacher_outputs) + (1 - alpha) * total, count

    return combined


def _of_classes(outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
    """KL(teacher || student) of the classes in the last dimension: (..., K) -> (...)."""
    log_p, log_q = F.log_softmax(outputs, dim=-1), F.log_softmax(teacher_outputs, dim=-1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=-1)


def _of_labels(outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
    """KL(teacher || student) of each binary label: (B, K) -> (B, K)."""
    positive = teacher_outputs.sigmoid() * (F.logsigmoid(teacher_outputs) - F.logsigmoid(outputs))
    negative = (-teacher_outputs).sigmoid() * (F.logsigmoid(-teacher_outputs) - F.logsigmoid(-outputs))
    return positive + negative


def _to_image_input(spec: ImageInput, pixels: Tensor) -> Tensor:
    """Pixels (B, H, W, C) in the size and channels of ``spec``: a new float tensor in [0, 255]."""
    # Always a copy: normalising works in place on floats, and these are the student's.
    planes = pixels.permute(0, 3, 1, 2).to(torch.float32, copy=True)
    if planes.shape[1] > spec.channels:
        weights = planes.new_tensor(_LUMA).view(1, -1, 1, 1)
        planes = (planes * weights).sum(dim=1, keepdim=True)
    elif planes.shape[1] < spec.channels:
        planes = planes.repeat(1, spec.channels, 1, 1)
    if planes.shape[2:] != (spec.height, spec.width):
        size = (spec.height, spec.width)
        planes = F.interpolate(planes, size=size, mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1)


def _names(task: TaskSpec) -> list[str]:
    """The names of the last dimension of the outputs; none for tokens."""
    return list(task.class_names) or [target.name for target in task.targets]


def _check_task(own: TaskSpec, task: TaskSpec, named: str) -> None:
    """Refuse a teacher of another task, or without a class or target of the student."""
    hint = "give a teacher that was trained for the same task, or leave --teacher out"
    if task.kind == "embedding":
        raise UsageError(f"{named}: embeddings are trained on classes, not by a teacher", hint=hint)
    for what, theirs, ours in (
        ("does", own.kind, task.kind),
        ("reads", own.input.kind, task.input.kind),
    ):
        if theirs != ours:
            raise UsageError(f"{named} {what} {theirs}, and this run {ours}", hint=hint)
    missing = [name for name in _names(task) if name not in _names(own)]
    if missing:
        what = "target" if task.targets else "label" if task.kind == "multilabel" else "class"
        shown = ", ".join(map(repr, missing[:5])) + (" ..." if len(missing) > 5 else "")
        raise UsageError(f"{named} does not know the {what} {shown}", hint=hint)
    if own.horizon != task.horizon:
        raise UsageError(f"{named} predicts {own.horizon} steps, and this run {task.horizon}", hint=hint)


def _check_inputs(own: InputSpec, spec: InputSpec, named: str) -> None:
    """Refuse other encoders than the student's, since the teacher gets the student's tensors."""
    if isinstance(own, ImageInput):
        return  # pixels are resized and converted
    if isinstance(own, PairsInput):
        assert isinstance(spec, PairsInput)
        _check_inputs(own.source, spec.source, f"{named}, of source texts,")
        _check_inputs(own.target, spec.target, f"{named}, of target texts,")
        return
    # A model that takes lengths also takes shorter texts and series than it was trained on.
    length = "max_length" if isinstance(own, TextInput) else "length"
    takes_lengths = isinstance(own, TextInput) or (isinstance(own, SeriesInput) and own.varies)
    if isinstance(own, TabularInput) and isinstance(spec, TabularInput):
        own, spec = own.without_bins(), spec.without_bins()  # which change no tensor
    differing = []
    for name in type(own).model_fields:
        theirs, ours = getattr(own, name), getattr(spec, name)
        shorter = name == length and takes_lengths and theirs > ours
        if name != "column" and theirs != ours and not shorter:
            differing.append(name)
    if differing:
        raise UsageError(
            f"{named} encodes its {own.kind} input in another way than this run: "
            f"{', '.join(differing)} differ",
            hint="encoders are fitted on the training split: train the teacher on the same data with "
            "the same --seed and settings of the data",
        )
