"""A copy of another program's model file with a card: from then on it is as dlcli's own exports.

The copy is loaded again, its outputs are compared with those of the file, and only then does it get its
name. The file itself stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli import transforms
from dlcli.card import Card, ModelSpec
from dlcli.config.adopt import AdoptConfig
from dlcli.data.prepare import prepare, random_inputs
from dlcli.deploy.adopt.copying import Copy, are_same, run_in_batches
from dlcli.deploy.adopt.form import Form
from dlcli.deploy.adopt.graph import ForeignGraph
from dlcli.deploy.adopt.head import Single, choose_output, in_words, two_outputs
from dlcli.deploy.adopt.script import ForeignScript
from dlcli.deploy.adopt.task import Described, describe
from dlcli.deploy.export import staging_folder
from dlcli.errors import DlcliError, UsageError
from dlcli.files import sha256_file
from dlcli.formats.base import ModelFile, check_trusted, recognize
from dlcli.formats.onnx.file import check_valid
from dlcli.formats.publish import publish
from dlcli.formats.readable_outputs import with_readable_outputs
from dlcli.formats.static_shape import with_sizes
from dlcli.task import InputSpec, TaskSpec
from dlcli.wording import plural

_ROWS = 5  # of random inputs, to compare; no divisor of a usual batch size
_SUM_TOLERANCE = 1e-3  # of probabilities


@dataclass(frozen=True)
class Adopted:
    """The copy; in words, what was assumed for its card, and what running the file has shown."""

    source: Path
    file: ModelFile
    assumed: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        card = self.file.card
        return {
            "artifact": str(self.source),
            "output": str(self.file.path),
            "format": self.file.format.name,
            "task": card.task.kind,
            "class_names": list(card.task.class_names),
            "input_shape": list(card.task.input.shape),
            "changes": [record.model_dump() for record in card.transforms],
            "assumed": list(self.assumed),
            "notes": list(self.notes),
        }


def adopt(
    file: ModelFile, config: AdoptConfig, output: Path | None = None, *, trust: bool = False
) -> Adopted:
    """Write a copy with a card to ``output``, by default STEM-adopted next to the file.

    Raises: UsageError for what neither the file nor the settings say, DlcliError where they do not fit.
    """
    if not file.is_foreign:
        if file.format.adoptable:
            raise DlcliError(f"{file.path} has a card already", hint="every command takes it as it is")
        raise DlcliError(
            f"{file.path} is a {file.format.name} file, and adopt is for ONNX and TorchScript",
            hint="weights alone need their model: dlcli train --model MODEL --weights FILE",
        )
    check_trusted(file, trust, command="adopt")
    path = file.path
    target = output or path.with_name(f"{path.stem}-adopted{file.format.suffix}")
    if target.exists():
        raise UsageError(f"{target} exists", hint="remove it, or choose another name: --output")
    foreign = ForeignGraph(path) if file.format.name == "onnx" else ForeignScript(path)
    described = describe(path, foreign.form, config)
    with staging_folder(target) as folder:
        staged = folder / target.name
        notes = _write(foreign, described, staged)
        published = publish(recognize(staged), target)
    if published.runs_code:
        published.remember()
    return Adopted(path, published, described.assumed, tuple(notes))


def _write(foreign: ForeignGraph | ForeignScript, described: Described, path: Path) -> list[str]:
    """Write the copy and compare its outputs. Returns what was seen. Raises: DlcliError."""
    form = foreign.form
    sample = _random(described.input)
    every = foreign.outputs(np.resize(sample, (form.batch or _ROWS, *sample.shape[1:])))
    count = len(described.names)
    foreign.output, why = choose_output(every, count, described.output_name, foreign.path)
    expected, batch, notes = _expected(foreign, sample)
    single: Single | None = None
    if described.kind == "classification" and (count, expected.shape[1]) == (2, 1):
        single = "probability" if foreign.ends_in_sigmoid() else "logit"
        notes.append(in_words(single, expected, described.names[1]))
        expected = two_outputs(expected, single)
    notes += [why] if why else []
    task = described.task(expected.shape[1], foreign.path)
    card = _card(foreign.path, form, task, described)
    if _are_sigmoids(expected, task):
        notes.append(
            "its outputs lie between 0 and 1 and do not add up to 1, as those of sigmoids: labels are "
            "its own, and probabilities, the softmax of its outputs, are not"
        )
    if single == "probability" or (single is None and _are_probabilities(expected, task)):
        card = with_readable_outputs(card)
        notes += ["its outputs are probabilities"] if single is None else []
    if form.precision == "float16":
        card = card.with_record(transforms.HALF, dtype="float16")
    if form.precision == "int8":
        card = card.with_record(transforms.QUANTIZE, method="by another program")
    for free in (True, False) if batch is not None and isinstance(foreign, ForeignGraph) else (False,):
        sizes = None if batch is None or free else {"batch": batch}
        copy = Copy(with_sizes(card, sizes), path, None if free else batch, single)
        problem = copy.problem(foreign, sample, expected)
        if not problem:
            if free:
                notes.append(f"its batch size of {batch} is now any: outputs are the same")
            elif batch is not None:
                notes.append(f"it takes batches of {batch} only, and is called so often")
            return notes
    if isinstance(foreign, ForeignGraph):
        check_valid(foreign.path)  # ONNX Runtime runs files that are not
    raise DlcliError(
        f"the copy of {foreign.path} does not give its outputs: {problem}; nothing was written"
    )


def _expected(
    foreign: ForeignGraph | ForeignScript, sample: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], int | None, list[str]]:
    """The file's outputs for a sample, the only batch size that it takes or None, and what was seen.

    Raises: DlcliError where they are no row of numbers for each sample.
    """
    batch, notes = foreign.form.batch, list[str]()
    outputs = run_in_batches(foreign.run, sample, batch)
    if not np.isfinite(outputs).all():
        value = "NaN" if np.isnan(outputs).any() else "infinity"
        raise DlcliError(
            f"{foreign.path} gives {value} for random samples, and no copy can be compared with that",
            hint="look at its weights: a run that diverged leaves NaN in them",
        )
    if batch is None and not are_same(outputs, one := run_in_batches(foreign.run, sample, 1)):
        if isinstance(foreign, ForeignScript):
            batch, outputs = 1, one
        elif len(one) != len(sample):
            raise DlcliError(
                f"{foreign.path} gives {plural(len(one) // len(sample), 'row')} for a batch of one: its "
                "output does not depend on the batch",
                hint="export it with a batch size that varies in its output too",
            )
        else:
            notes.append("its outputs for a sample depend on the others of its batch")
    if outputs.ndim != 2 or len(outputs) != len(sample):
        raise DlcliError(
            f"{foreign.path} gives {outputs.shape} for {len(sample)} samples, and a card describes "
            "(samples, outputs)",
            hint="export a model whose forward gives one row of numbers a sample",
        )
    return outputs, batch, notes


def _random(spec: InputSpec) -> npt.NDArray[np.float32]:
    """Random inputs as the model takes them."""
    task = TaskSpec(kind="multilabel", input=spec, class_names=("any",))
    (array,) = prepare(random_inputs(task, _ROWS), task).values()
    return array


def _are_sigmoids(outputs: npt.NDArray[np.float32], task: TaskSpec) -> bool:
    """Whether each output for random inputs is a probability, and a row's are none together."""
    bounded = outputs.min() >= 0 and outputs.max() <= 1 + _SUM_TOLERANCE
    return task.kind == "classification" and bounded and not _are_probabilities(outputs, task)


def _are_probabilities(outputs: npt.NDArray[np.float32], task: TaskSpec) -> bool:
    """Whether every row of outputs for random inputs is one of probabilities; logits never are."""
    if task.targets or outputs.min() < 0 or outputs.max() > 1 + _SUM_TOLERANCE:
        return False
    return task.kind == "multilabel" or bool(np.abs(outputs.sum(axis=1) - 1).max() < _SUM_TOLERANCE)


def _card(path: Path, form: Form, task: TaskSpec, described: Described) -> Card:
    # A name that no registered model has: nothing builds it.
    spec = ModelSpec(name=f"{path.stem} (adopted)")
    card = Card(model=spec, task=task, data=described.data, weights_from=str(path), params=form.params)
    return card.with_record(
        transforms.ADOPTED, source=path.name, sha256=sha256_file(path), producer=form.producer
    )
