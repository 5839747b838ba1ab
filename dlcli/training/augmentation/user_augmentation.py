"""Augmentation by the user's own code, ``--augment aug.py:make``, or by a package's.

The name is that of one of these; ``augment.args.make`` are the keyword arguments of a function or class:

- a function of a sample: an image, a series, the numbers of a row, or several tensors;
- a pipeline, an object that is called with a sample: `torchvision.transforms.v2.Compose`, an nn.Module;
- a class, or a function whose first parameter is no sample (it has none, or one with a default), which
  returns a pipeline.

A sample is a tensor on the training device, or several, whose form depends on the kind of data: see
`sample_forms`. What returns has its shape and dtype, of several a tuple of them; images may also return
as floats in [0, 1]. An attribute ``batched = True`` of a function or pipeline asks for the samples of a
micro-batch together, (B, ...); series of different lengths end in zeros there, which stay zeros.

Before each call the generators of torch, `random` and NumPy, and of albumentations, are seeded by
(seed, epoch, sample), of a batch by its first sample, and they are restored afterwards. So a sample is
augmented alike in a resumed run and however a batch is divided; with ``batched`` that holds for the
former alone. It takes the place of a level; of images, settings such as ``augment.mixup`` are applied
after it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlcli.call_arguments import check_arguments, signature_of
from dlcli.config import AugmentConfig
from dlcli.config.augment import LEVELS
from dlcli.data.base import Indices
from dlcli.errors import DlcliError
from dlcli.task import InputSpec
from dlcli.training.augmentation.sample_forms import Pipeline, SampleForm, described, form_of
from dlcli.training.loop.determinism import derive_seed, preserved_rng, seed_generators
from dlcli.trust import AUGMENTATIONS_GROUP, names_code
from dlcli.user_code import UserObject, load_object

_KEY = 77  # of the seeds, next to those of the built-in operations


def is_user_augmentation(config: AugmentConfig) -> bool:
    """Whether the settings name an augmentation of the user's own code."""
    name = config.level
    return name is not None and name not in LEVELS and names_code(name, AUGMENTATIONS_GROUP)


class UserAugmentation:
    """An augmentation of the user's own code, on the inputs of a batch."""

    def __init__(self, code: UserObject, pipeline: Pipeline, form: SampleForm, seed: int) -> None:
        self._code, self._pipeline, self._form, self._seed = code, pipeline, form, seed
        self.batched = bool(getattr(pipeline, "batched", False))

    @property
    def key(self) -> str:
        """The name of its arguments in ``augment.args``."""
        return key_of(self._code.name)

    @property
    def sentence(self) -> str:
        """A description for the user."""
        divided = ", whose chance depends on how a batch is divided" if self.batched else ""
        return f"{self._code.label}{divided}"

    def __call__(self, inputs: tuple[Tensor, ...], indices: Indices, epoch: int) -> tuple[Tensor, ...]:
        """Augment the inputs (B, ...) of a batch, as `dlcli.data.base.Inputs`, to new ones.

        Pixels become uint8 or float32 in [0, 255]. Raises: DlcliError.
        """
        form = self._form
        tensors = form.tensors(inputs)
        with preserved_rng(inputs[0].device):
            if self.batched:
                augmented = self._augmented(tensors, int(indices[0]), epoch)
            else:
                lengths = form.lengths(inputs)
                rows = [
                    self._augmented(
                        tuple(t[row] if lengths is None else t[row, : lengths[row]] for t in tensors),
                        index,
                        epoch,
                    )
                    for row, index in enumerate(indices.tolist())
                ]
                augmented = tuple(map(_stacked, zip(*rows, strict=True), tensors))
        return form.replaced(inputs, augmented)

    def _augmented(self, tensors: tuple[Tensor, ...], index: int, epoch: int) -> tuple[Tensor, ...]:
        """What the code returns for the tensors of a sample or of a batch, checked."""
        seed = derive_seed(self._seed, epoch, index, _KEY)
        seed_generators(seed, tensors[0].device)
        if hasattr(self._pipeline, "set_random_seed"):  # of albumentations
            self._pipeline.set_random_seed(seed % 2**32)
        label, form = self._code.label, self._form
        with self._code.errors(f"the augmentation {label} failed on {described(tensors)}"):
            value = form.call(self._pipeline, [tensor.clone() for tensor in tensors])
        values = (value,) if len(tensors) == 1 else value
        if not isinstance(values, tuple | list) or len(values) != len(tensors):
            size = f" of {len(values)}" if isinstance(values, tuple | list) else ""
            raise self._refuse(
                f"returned a {type(values).__name__}{size}, not {len(tensors)} tensors",
                f"return {', '.join(form.names)}",
            )
        return tuple(map(self._checked, values, tensors))

    def _checked(self, value: Any, tensor: Tensor) -> Tensor:
        if not isinstance(value, Tensor):
            raise self._refuse(
                f"returned a {type(value).__name__}, not a tensor",
                "return the augmented sample; a function without a parameter for it is called once, "
                "and returns a pipeline",
            )
        value = value.detach().as_subclass(Tensor)
        if value.shape != tensor.shape:
            raise self._refuse(
                f"returned the shape {tuple(value.shape)} for one of {tuple(tensor.shape)}",
                self._form.size_hint,
            )
        return self._form.checked(value, tensor, self._refuse)

    def _refuse(self, what: str, hint: str) -> DlcliError:
        """The error of what the code returned: it names the line where the code begins."""
        return DlcliError(
            f"the augmentation {self._code.label} {what}{self._code.begin_of(self._pipeline)}", hint=hint
        )


def load_augmentation(config: AugmentConfig, spec: InputSpec, seed: int) -> UserAugmentation:
    """Run the code that ``augment.level`` names and build its pipeline, for samples of an input.

    Raises: UsageError, DlcliError.
    """
    assert config.level is not None
    form = form_of(spec)
    key = key_of(config.level)
    args = config.args.get(key, {})
    code = load_object(config.level, AUGMENTATIONS_GROUP, args, word="augmentation")
    pipeline, setting = code.value, f"augment.args.{key}"
    if _is_factory(pipeline, args):
        check_arguments(code.label, pipeline, setting, args)
        with code.errors(f"{code.label} failed"):
            pipeline = pipeline(**args)
        if not callable(pipeline):
            raise DlcliError(
                f"{code.label} returned a {type(pipeline).__name__}, which takes no {form.names[0]}",
                hint=f"a function without a parameter for the {form.names[0]} returns a pipeline",
            )
    elif _is_function(pipeline):
        check_arguments(code.label, pipeline, setting, args, form.names)
        batched = getattr(pipeline, "batched", False)
        pipeline = functools.partial(pipeline, **args)
        pipeline.batched = batched  # type: ignore[attr-defined]
    elif args:
        check_arguments(code.label, lambda *sample: sample, setting, args, form.names)
    code.works()
    return UserAugmentation(code, pipeline, form, seed)


def key_of(name: str) -> str:
    """The name of an augmentation's arguments in ``augment.args``: NAME of ``file.py:NAME``."""
    return name.rpartition(":")[2]


def _stacked(values: Sequence[Tensor], tensor: Tensor) -> Tensor:
    """The values of all samples together, shorter series with zeros up to the steps of ``tensor``."""
    if all(value.shape == tensor.shape[1:] for value in values):
        return torch.stack(list(values))
    padded = torch.zeros_like(tensor)
    for row, value in enumerate(values):
        padded[row, : len(value)] = value
    return padded


def _is_function(value: Any) -> bool:
    return inspect.isroutine(value) or isinstance(value, functools.partial)


def _is_factory(value: Any, args: dict[str, Any]) -> bool:
    """Whether it makes a pipeline: a class, or a function whose first parameter is no sample."""
    if inspect.isclass(value):
        return True
    signature = signature_of(value) if _is_function(value) else None
    if signature is None:
        return False
    first = next(iter(signature.parameters.values()), None)
    if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
        return True
    return first.name in args or first.default is not first.empty
