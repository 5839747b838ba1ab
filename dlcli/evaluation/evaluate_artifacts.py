"""Evaluation of artifacts on their data: one, an ensemble, or the members of one. No torch here."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from dlcli.config import EvalConfig
from dlcli.data.base import Reader, SplitName
from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.data.slices import groups_of
from dlcli.evaluation.baselines.compare import compare_with_baselines
from dlcli.evaluation.conformal import measure_intervals
from dlcli.evaluation.differences import compared_metric
from dlcli.evaluation.ensemble import Ensemble, member_row
from dlcli.evaluation.eval_data import EvalData, eval_data
from dlcli.evaluation.evaluate import batch_size_of, batches, check_counted
from dlcli.evaluation.examples import add_examples
from dlcli.evaluation.explanations import Explainer
from dlcli.evaluation.metrics import Counts, EvalResult, make_counts
from dlcli.evaluation.metrics.base import IntervalRow
from dlcli.evaluation.slices import slice_rows
from dlcli.evaluation.translation import bleu, check_beams
from dlcli.evaluation.worst import SampleLosses, check_worst, worst_rows
from dlcli.events import Emit, Warned, ignore
from dlcli.formats.base import open_artifact, recognize
from dlcli.runs.folder import RunFolder
from dlcli.task import TaskSpec


def evaluate_ensemble(
    ensemble: Ensemble, data: EvalData, config: EvalConfig, *, shown: int = 0, emit: Emit = ignore
) -> EvalResult:
    """`evaluate` for an ensemble of artifacts, with baselines; several are also evaluated one by one.

    ``shown`` is how many of the worst samples are wanted to look at, besides those of ``config``.
    """
    task, several = ensemble.task, len(ensemble.members) > 1
    if config.worst is not None:
        check_worst(task)
    fitted, intervals = None, tuple[IntervalRow, ...]()
    if config.intervals is not None:
        fitted, intervals = measure_intervals(ensemble, data, config, emit)
    samples, measures = data.reader.samples, kind_of(task).measures
    groups = {name: groups_of(samples, name, measures) for name in config.slices}
    losses = SampleLosses(task)
    reader, alone, counts = count_members(ensemble, data, config, losses, emit=emit)
    check_counted(counts, reader, data.split)
    members = tuple(
        member_row(artifact, own, counts, task)
        for artifact, own in zip(ensemble.members, alone, strict=True)
        if several
    )
    result = replace(counts.result(data.split, reader.bad), members=members, intervals=intervals)
    if task.kind == "seq2seq":
        score = bleu(ensemble.predict, reader, task, split=data.split, beams=config.beams, emit=emit)
        result = replace(result, metrics={**result.metrics, "bleu": score})
    result = add_examples(
        result,
        ensemble.predict,
        reader,
        task,
        beams=config.beams,
        half_widths=None if fitted is None else partial(fitted.around, task=task),
    )
    number, predict = config.worst or 0, ensemble.predict
    if task.kind != "embedding" and (number or shown):
        beams = config.beams
        worst = worst_rows(
            predict,
            task,
            reader,
            losses,
            counts,
            number=number,
            shown=shown,
            beams=beams,
            explainer=Explainer(ensemble.members[0]) if config.explain else None,
        )
        result = replace(result, worst=worst)
    metric = compared_metric(ensemble.members[0].card.monitor, counts, task)
    if groups:
        rows = slice_rows(len(samples), groups, counts, losses.indices, metric, task)
        result = replace(result, slices=rows)
    if data.train is None:
        return result
    # The reader of the first member: baselines need no other encoding. Its `bad` is that of all.
    baselines = compare_with_baselines(
        task, data.train(), data.reader, counts, metric=metric, fitted=config.baselines
    )
    return replace(result, baselines=baselines)


def evaluate_run(
    run: RunFolder, split: SplitName, emit: Emit = ignore
) -> tuple[EvalResult, dict[str, float]]:
    """Evaluate a run's best model on a split of its own, without baselines.

    Also returns its metrics on val, as `record_evaluation` needs them. Raises: DlcliError.
    """
    config = EvalConfig(split=split)
    model = open_artifact(recognize(run.best), device=config.device)
    data = replace(eval_data(model.card, model.path, config), train=None)
    result = evaluate_ensemble(Ensemble([model]), data, config, emit=emit)
    return result, model.card.metrics.get("val", {})


def count_members(
    ensemble: Ensemble,
    data: EvalData,
    config: EvalConfig,
    losses: SampleLosses | None = None,
    *,
    emit: Emit = ignore,
) -> tuple[Reader, list[Counts], Counts]:
    """Count the outputs of each member and, where they have one, of their mean.

    Returns the reader, the counts of the members, and those of the mean: of a single member its own,
    and without samples where the members are not averaged. The ``losses`` are of the mean.
    """
    task = ensemble.task
    check_beams(task, config.beams)
    options = ReadOptions(workers=config.workers, on_bad_sample=config.on_bad_sample)

    def reader_for(member: TaskSpec) -> Reader:
        if member.input == task.input:
            return data.reader
        return kind_of(member).reader(data.reader.samples, member, options)

    reader = ensemble.reader(reader_for)
    for notice in reader.notices:
        if config.data is not None or not notice.is_decision:
            emit(Warned(notice.message))
    alone = [make_counts(own) for own in ensemble.tasks]
    mean = alone[0] if len(alone) == 1 else make_counts(task)
    size = config.batch_size or batch_size_of(ensemble)
    for inputs, indices in batches(reader, size, data.split, emit):
        outputs, targets = ensemble.outputs(inputs), reader.targets(indices)
        series = reader.series(indices)
        for own, output in zip(alone, outputs, strict=True):
            own.update(output, targets, inputs, series)
        if not ensemble.averaged:
            continue
        combined = ensemble.mean(outputs)
        if mean is not alone[0]:
            mean.update(combined, targets, inputs, series)
        if losses is not None:
            losses.update(combined, targets, indices)
    return reader, alone, mean
