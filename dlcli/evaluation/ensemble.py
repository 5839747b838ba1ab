"""Several models that answer one question: the mean of what they say. No torch here.

B is the number of samples in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from dlcli.data.base import Indices, Inputs, Reader, Targets
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.intervals import of_difference
from dlcli.evaluation.metrics import Counts, direction
from dlcli.evaluation.metrics.base import MemberRow
from dlcli.evaluation.tta import averaged, mean_classes
from dlcli.files import read_json
from dlcli.formats.base import Artifact, Outputs
from dlcli.runs.folder import run_of
from dlcli.task import TaskSpec

# Why the answers of two such models have no mean.
_NO_MEAN = {
    "seq2seq": "each token follows from those that the same model wrote before",
    "embedding": "each model has a space of its own, so a mean of their vectors means nothing",
}


class Ensemble:
    """Artifacts as one model that answers `task`, the first one's. Of one artifact it is that artifact.

    Formats, architectures and inputs may differ: `reader` reads each sample as each member needs it, and
    `predict` takes what it read. Members with equal encoders share what was read.
    """

    def __init__(self, members: Sequence[Artifact], *, tta: Literal["none", "flip"] = "none") -> None:
        check_members([(str(member.path), member.card.task) for member in members])
        self.members = tuple(members)
        self.task = members[0].card.task
        self._answers = [averaged(m.predict, m.card.task, tta) for m in members]
        self._translated = [_translation(m.card.task, self.task) for m in members]
        self._distinct: list[Artifact] = []  # those whose inputs no member before them has
        self._inputs: list[slice] = []  # of each member, among the tensors that `reader` gives
        places: list[slice] = []
        for member in members:
            spec = member.card.task.input
            same = [i for i, m in enumerate(self._distinct) if m.card.task.input == spec]
            if not same:
                start = places[-1].stop if places else 0
                places.append(slice(start, start + len(spec.signature)))
                self._distinct.append(member)
            self._inputs.append(places[same[0] if same else -1])

    def reader(self, make: Callable[[TaskSpec], Reader]) -> Reader:
        """A reader of everything that the members need; ``make`` gives that of one task.

        The first that is made is the one of `task`, whose targets count. Raises: DlcliError when the
        readers list other samples.
        """
        readers = [make(member.card.task) for member in self._distinct]
        if len(readers) == 1:
            return readers[0]
        return _JoinedReader(readers, [str(member.path) for member in self._distinct])

    def answers(self, inputs: Inputs) -> list[Outputs]:
        """What each member says, in the classes' order and on the scales of `task`."""
        return [
            translated(answer(inputs[where]))
            for answer, where, translated in zip(
                self._answers, self._inputs, self._translated, strict=True
            )
        ]

    def mean(self, answers: Sequence[Outputs]) -> Outputs:
        """The members' mean: of probabilities, as logits again, or of numbers."""
        if len(answers) == 1:
            return answers[0]
        if self.task.kind == "classification":
            return mean_classes(answers)
        if self.task.kind == "multilabel":
            return _mean_labels(answers)
        mean: Outputs = np.stack(answers).mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def predict(self, inputs: Inputs) -> Outputs:
        """The answers for a batch, as of one artifact."""
        return self.mean(self.answers(inputs))


def check_members(named: Sequence[tuple[str, TaskSpec]]) -> None:
    """Refuse models, by name and task, whose answers have no mean. Raises: UsageError naming why."""
    first, task = named[0]
    if len(named) > 1 and task.kind in _NO_MEAN:
        raise UsageError(
            f"models that do {task.kind} cannot be averaged: {_NO_MEAN[task.kind]}",
            hint="give one model",
        )
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
            said = f"the first predicts {task.horizon} steps, the second {other.horizon}"
            raise _different(first, name, said)


def member_row(artifact: Artifact, own: Counts, whole: Counts, task: TaskSpec) -> MemberRow:
    """One member, as ``own``, beside the ensemble, as ``whole``, both counted on the same samples."""
    metric, metrics = whole.scored, own.metrics()
    # Windows of a forecast overlap by up to the horizon.
    block = max(1, task.horizon)
    low, high = of_difference(whole.scores(), own.scores(), rooted=whole.rooted, block=block)
    better = None
    if low > 0 or high < 0:
        better = (low > 0) == (direction(metric) > 0)
    difference = whole.metrics()[metric] - metrics[metric]
    return MemberRow(str(artifact.path), metrics, metric, difference, low, high, better)


def seen_in_training(members: Sequence[Artifact], ids: Sequence[str]) -> list[str]:
    """A sentence for each member that was trained on some of the samples ``ids`` of the first's data.

    Runs divide data by their seed, so what one of them held out another may have learnt. Only members
    that lie in their runs and were trained on the same data can be told.
    """
    said = []
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
            said.append(
                f"{member.path} was trained on {seen:,} of these {len(ids):,} samples, since its run "
                "divided the data in another way: its figures and the ensemble's are too good"
            )
    return said


class _JoinedReader(Reader):
    """The same samples through several readers: all their tensors, one reader's behind another's.

    What one reader cannot read is bad for all of them.
    """

    def __init__(self, readers: Sequence[Reader], names: Sequence[str]) -> None:
        super().__init__(readers[0].samples)
        self._readers = readers
        self.lengths = readers[0].lengths
        for reader, name in zip(readers, names, strict=True):
            if reader.samples.ids != self.samples.ids:
                raise DlcliError(f"{name} finds other samples there than {names[0]}")
            self.bad |= reader.bad
            reader.bad = self.bad  # one dictionary: each also leaves out what the others cannot read
            self.notices += [notice.prefixed(name) for notice in reader.notices]

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """The tensors of all readers for the samples that each of them can read."""
        found = [reader.read(indices) for reader in self._readers]
        kept = indices[np.logical_and.reduce([np.isin(indices, own) for _, own in found])]
        tensors = []
        for arrays, own in found:
            rows = np.isin(own, kept)
            tensors += list(arrays) if rows.all() else [array[rows] for array in arrays]
        return tuple(tensors), kept

    def targets(self, indices: Indices) -> Targets:
        """Those of the first reader."""
        return self._readers[0].targets(indices)

    def close(self) -> None:
        """Of all readers."""
        for reader in self._readers:
            reader.close()


def _translation(task: TaskSpec, wanted: TaskSpec) -> Callable[[Outputs], Outputs]:
    """From a member's answers (B, ..., K) to the order of classes or targets and the scales wanted."""
    if task.class_names:
        if task.class_names == wanted.class_names:
            return lambda outputs: outputs
        order = [task.class_names.index(name) for name in wanted.class_names]
        return lambda outputs: outputs[..., order]
    if task.targets == wanted.targets:
        return lambda outputs: outputs
    names = [target.name for target in task.targets]
    order = [names.index(target.name) for target in wanted.targets]
    mean, std = np.array([(task.targets[i].mean, task.targets[i].std) for i in order]).T
    new_mean, new_std = np.array([(target.mean, target.std) for target in wanted.targets]).T

    def rescaled(outputs: Outputs) -> Outputs:
        values = outputs[..., order].astype(np.float64) * std + mean
        out: Outputs = ((values - new_mean) / new_std).astype(np.float32)
        return out

    return rescaled


def _mean_labels(answers: Sequence[Outputs]) -> Outputs:
    """Logits of the mean probabilities of each label, (B, K); NaN where an answer is not finite."""
    wide = np.stack(answers).astype(np.float64)
    # log sigmoid(x) is -log(1 + exp(-x)); both sides are averaged, so that no probability near 1
    # loses what it lacks to 1.
    yes, no = (np.exp(-np.logaddexp(0.0, sign * wide)).mean(axis=0) for sign in (-1, 1))
    tiny = np.finfo(np.float64).tiny
    logits = np.log(np.maximum(yes, tiny)) - np.log(np.maximum(no, tiny))
    out: Outputs = np.where(np.isfinite(wide).all(axis=0), logits, np.nan).astype(np.float32)
    return out


def _different(first: str, second: str, how: str) -> UsageError:
    return UsageError(
        f"{first} and {second} answer different questions: {how}",
        hint="average models of one task with the same classes or targets",
    )
