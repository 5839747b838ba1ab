"""Compare models on the same samples: the metrics of each, and its difference from the first.

No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dlcli.config import EvalConfig
from dlcli.errors import UsageError
from dlcli.evaluation.differences import compared_metric
from dlcli.evaluation.ensemble import Ensemble, compare_counts
from dlcli.evaluation.eval_data import EvalData
from dlcli.evaluation.evaluate import check_counted
from dlcli.evaluation.evaluate_artifacts import count_members
from dlcli.evaluation.metrics import Counts
from dlcli.evaluation.metrics.base import MemberRow
from dlcli.evaluation.translation import bleu
from dlcli.events import Emit, ignore
from dlcli.formats.base import Artifact
from dlcli.task import TaskKind, TaskSpec


@dataclass(frozen=True)
class ModelComparison:
    """Models on the same samples of a split.

    ``models`` are in the order given; the ``difference`` of each is its metric minus that of the first,
    and ``better`` is whether it is significantly better than that one.
    """

    split: str
    samples: int
    task: TaskKind
    models: tuple[MemberRow, ...]
    bad_samples: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def compare_models(
    models: Sequence[Artifact], data: EvalData, config: EvalConfig, *, emit: Emit = ignore
) -> ModelComparison:
    """Evaluate each model on the samples of ``data`` that all of them can read.

    Raises: UsageError for models of different tasks, or translations with different vocabularies.
    """
    together = Ensemble(models, tta=config.tta, averaged=False)
    task = together.task
    _check_vocabularies(models, task)
    reader, counts, _ = count_members(together, data, config, emit=emit)
    check_counted(counts[0], reader, data.split)
    metric = compared_metric(models[0].card.monitor, counts[0], task)
    rows = [_row(model, own, counts[0], metric, task) for model, own in zip(models, counts, strict=True)]
    if task.kind == "seq2seq":
        for row, model in zip(rows, models, strict=True):
            row.metrics["bleu"] = bleu(
                model.predict, reader, task, split=data.split, beams=config.beams, emit=emit
            )
    return ModelComparison(data.split, counts[0].samples, task.kind, tuple(rows), dict(reader.bad))


def _row(model: Artifact, own: Counts, first: Counts, metric: str, task: TaskSpec) -> MemberRow:
    if own is first:
        return MemberRow(str(model.path), own.metrics(), metric, 0.0, 0.0, 0.0, None, own.undefined())
    return compare_counts(str(model.path), own, first, metric, task, shown=own)


def _check_vocabularies(models: Sequence[Artifact], task: TaskSpec) -> None:
    """Raises: UsageError where losses and accuracies are of different tokens."""
    other = next((m for m in models if m.card.task.input != task.input), None)
    if task.kind == "seq2seq" and other is not None:
        raise UsageError(
            f"{models[0].path} and {other.path} have different vocabularies, so their tokens cannot be "
            "compared",
            hint="evaluate each alone; BLEU is of texts, and comparable",
        )
