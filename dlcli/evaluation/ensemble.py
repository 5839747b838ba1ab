"""An ensemble of models: the mean of their predictions. No torch here.

B is the number of samples in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from dlcli.data.base import Indices, Inputs, Reader, SeriesRows, Targets
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.decisions import aligned_thresholds
from dlcli.evaluation.probabilities import sigmoid
from dlcli.evaluation.tta import mean_classes, with_tta
from dlcli.files import read_json
from dlcli.formats.base import Artifact, Outputs
from dlcli.runs.folder import run_of
from dlcli.task import SeriesInput, SeriesScale, TaskSpec

if TYPE_CHECKING:
    from dlcli.evaluation.metrics import Counts
    from dlcli.evaluation.metrics.base import MemberRow

# Why the outputs of two such models have no mean.
_NO_MEAN = {
    "seq2seq": "each token depends on those that the same model generated before",
    "embedding": "each model has its own embedding space, so a mean of vectors is meaningless",
}


class Ensemble:
    """Artifacts as one model for `task`, by default that of the first one.

    Another has its classes or targets, and outputs are in its order and scales.
    Formats, architectures and inputs may differ: `reader` encodes each sample as each member needs it,
    and `predict` takes these inputs. Members with equal encoders share their inputs.
    """

    def __init__(
        self,
        members: Sequence[Artifact],
        *,
        tta: Literal["none", "flip"] = "none",
        averaged: bool = True,
        task: TaskSpec | None = None,
    ) -> None:
        check_members([(str(m.path), m.card.task) for m in members], averaged=averaged)
        self.members = tuple(members)
        self.averaged = averaged
        first = task or members[0].card.task
        # Thresholds are of the probabilities of one model, not of a mean.
        self.task = first if len(members) == 1 else first.with_thresholds(None)
        # That of each member: the same, with its own thresholds.
        self.tasks = [first.with_thresholds(aligned_thresholds(m.card.task, first)) for m in members]
        self._predict = [with_tta(m.predict, m.card.task, tta) for m in members]
        self._aligned = [alignment(m.card.task, self.task) for m in members]
        self._distinct: list[Artifact] = []  # members whose input differs from all before
        self._inputs: list[slice] = []  # of each member, among the inputs of `reader`
        slices: list[slice] = []
        for member in members:
            spec = member.card.task.input
            same = [i for i, m in enumerate(self._distinct) if m.card.task.input == spec]
            if not same:
                start = slices[-1].stop if slices else 0
                slices.append(slice(start, start + len(spec.signature)))
                self._distinct.append(member)
            self._inputs.append(slices[same[0] if same else -1])

    def reader(self, make: Callable[[TaskSpec], Reader]) -> Reader:
        """Build a reader of the inputs of all members; ``make`` builds the reader of one task.

        Targets are those of the first reader, which is of `task`. Raises: DlcliError when the readers
        list different samples.
        """
        readers = [make(member.card.task) for member in self._distinct]
        if len(readers) == 1:
            return readers[0]
        return _JoinedReader(readers, [str(member.path) for member in self._distinct])

    def outputs(self, inputs: Inputs) -> list[Outputs]:
        """The outputs of each member, in the class order and target scales of `task`."""
        return [
            align(predict(inputs[where]))
            for predict, where, align in zip(self._predict, self._inputs, self._aligned, strict=True)
        ]

    def mean(self, outputs: Sequence[Outputs]) -> Outputs:
        """The mean over members: of probabilities, as logits again, or of numbers."""
        if len(outputs) == 1:
            return outputs[0]
        if self.task.kind == "classification":
            return mean_classes(outputs)
        if self.task.kind == "multilabel":
            return _mean_labels(outputs)
        mean: Outputs = np.stack(outputs).mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def predict(self, inputs: Inputs) -> Outputs:
        """The outputs for a batch, as `Artifact.predict`."""
        return self.mean(self.outputs(inputs))


def no_mean(task: str) -> str:
    """Return why models of a task cannot be averaged, else ""."""
    why = _NO_MEAN.get(task)
    return f"models for {task} cannot be averaged: {why}" if why else ""


def check_members(named: Sequence[tuple[str, TaskSpec]], *, averaged: bool = True) -> None:
    """Refuse models, by name and task, that do different tasks or, if ``averaged``, have no mean.

    Raises: UsageError naming why.
    """
    first, task = named[0]
    if averaged and len(named) > 1 and (why := no_mean(task.kind)):
        raise UsageError(why, hint="give one model")
    for name, other in named[1:]:
        for mine, theirs, what in (
            (task.kind, other.kind, "does"),
            (task.input.kind, other.input.kind, "reads"),
        ):
            if mine != theirs:
                raise _different(first, name, f"the first {what} {mine}, the second {theirs}")
        targets = [[target.name for target in spec.targets] for spec in (task, other)]
        for what, (left, right) in (
            ("class", (task.class_names, other.class_names)),
            ("target", (tuple(targets[0]), tuple(targets[1]))),
        ):
            for side, missing in (("first", set(left) - set(right)), ("second", set(right) - set(left))):
                if missing:
                    shown = ", ".join(sorted(missing)[:5]) + (" ..." if len(missing) > 5 else "")
                    raise _different(first, name, f"only the {side} knows the {what} {shown}")
        if task.horizon != other.horizon:
            how = f"the first predicts {task.horizon} steps, the second {other.horizon}"
            raise _different(first, name, how)
        if _series_scales(task) != _series_scales(other):
            raise _different(first, name, "their series are scaled by other numbers")


def _series_scales(task: TaskSpec) -> set[SeriesScale]:
    """The scales of the series, where each has its own: outputs and errors are in these units."""
    scaled = isinstance(task.input, SeriesInput) and task.input.scaled_by_series
    return set(task.input.series) if scaled and isinstance(task.input, SeriesInput) else set()


def member_row(artifact: Artifact, own: Counts, ensemble: Counts, task: TaskSpec) -> MemberRow:
    """Compare the ``ensemble`` with a member (``own``), counted on the same samples."""
    from dlcli.evaluation.differences import compared_metric

    metric = compared_metric(artifact.card.monitor, ensemble, task)
    return compare_counts(str(artifact.path), ensemble, own, metric, task, shown=own)


def compare_counts(
    name: str, counts: Counts, other: Counts, metric: str, task: TaskSpec, *, shown: Counts
) -> MemberRow:
    """The difference of ``counts`` minus ``other`` on the same samples, and the metrics of ``shown``."""
    from dlcli.evaluation.differences import difference
    from dlcli.evaluation.metrics.base import MemberRow

    own = difference(counts, other, metric, task)
    return MemberRow(
        name, shown.metrics(), metric, own.value, own.low, own.high, own.better, shown.undefined()
    )


def seen_in_training(members: Sequence[Artifact], ids: Sequence[str]) -> list[str]:
    """A message for each member that was trained on some of the samples ``ids`` of the evaluated split.

    Runs split data by their seed, so a sample that one of them held out may be in the training split of
    another. Only members in their run folder that were trained on the same data can be checked.
    """
    messages = []
    own = members[0].card.data
    for member in members[1:]:
        run, data = run_of(member.path), member.card.data
        same = own is not None and data is not None and own.fingerprint == data.fingerprint
        if run is None or not same or not run.splits.is_file():
            continue
        record = read_json(run.splits)
        splits = record.get("splits", {}) if isinstance(record, dict) else {}
        seen = len(set(ids) & set(splits.get("train", ())))
        if seen:
            messages.append(
                f"{member.path} was trained on {seen:,} of these {len(ids):,} samples, since its run "
                "split the data in another way: its metrics are too good"
            )
    return messages


class _JoinedReader(Reader):
    """The same samples through several readers: the inputs of all, concatenated.

    A sample that one reader cannot read is bad for all of them.
    """

    def __init__(self, readers: Sequence[Reader], names: Sequence[str]) -> None:
        super().__init__(readers[0].samples)
        self._readers = readers
        self.lengths = readers[0].lengths
        for reader, name in zip(readers, names, strict=True):
            if reader.samples.ids != self.samples.ids:
                raise DlcliError(f"{name} and {names[0]} read different samples of this data")
            self.bad |= reader.bad
            reader.bad = self.bad  # one dictionary: each also skips what the others cannot read
            self.notices += [notice.prefixed(name) for notice in reader.notices]

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """The inputs of all readers for the samples that each of them can read."""
        parts = [reader.read(indices) for reader in self._readers]
        readable = indices[np.logical_and.reduce([np.isin(indices, own) for _, own in parts])]
        inputs = []
        for arrays, own in parts:
            rows = np.isin(own, readable)
            inputs += list(arrays) if rows.all() else [array[rows] for array in arrays]
        return tuple(inputs), readable

    def targets(self, indices: Indices) -> Targets:
        """The targets of the first reader."""
        return self._readers[0].targets(indices)

    def row_keys(self, index: int) -> list[dict[str, str]]:
        """As `Reader.row_keys`, of the first reader."""
        return self._readers[0].row_keys(index)

    def series(self, indices: Indices) -> SeriesRows | None:
        """As `Reader.series`; `check_members` sees to equal scales."""
        return self._readers[0].series(indices)

    def close(self) -> None:
        """Close all readers."""
        for reader in self._readers:
            reader.close()


def alignment(task: TaskSpec, reference: TaskSpec) -> Callable[[Outputs], Outputs]:
    """Map outputs (B, ..., K) of ``task`` to the classes or scales of ``reference``."""
    if task.class_names:
        if task.class_names == reference.class_names:
            return lambda outputs: outputs
        order = [task.class_names.index(name) for name in reference.class_names]
        return lambda outputs: outputs[..., order]
    if task.targets == reference.targets:
        return lambda outputs: outputs
    names = [target.name for target in task.targets]
    order = [names.index(target.name) for target in reference.targets]
    mean, std = np.array([(task.targets[i].mean, task.targets[i].std) for i in order]).T
    new_mean, new_std = np.array([(target.mean, target.std) for target in reference.targets]).T

    def rescaled(outputs: Outputs) -> Outputs:
        values = outputs[..., order].astype(np.float64) * std + mean
        out: Outputs = ((values - new_mean) / new_std).astype(np.float32)
        return out

    return rescaled


def _mean_labels(outputs: Sequence[Outputs]) -> Outputs:
    """Logits of the mean probabilities of each label, (B, K); NaN where an output is not finite."""
    wide = np.stack(outputs).astype(np.float64)
    # Averaging p and q = 1 - p separately keeps precision near 1.
    p, q = (sigmoid(sign * wide).mean(axis=0) for sign in (1, -1))
    tiny = np.finfo(np.float64).tiny
    logits = np.log(np.maximum(p, tiny)) - np.log(np.maximum(q, tiny))
    out: Outputs = np.where(np.isfinite(wide).all(axis=0), logits, np.nan).astype(np.float32)
    return out


def _different(first: str, second: str, how: str) -> UsageError:
    return UsageError(
        f"{first} and {second} do different tasks: {how}",
        hint="give models of one task with the same classes or targets",
    )
