"""The screens of `dlcli tune` on stdout: what is searched, the trials, the best of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import wording
from dlcli.runs.folder import as_typed
from dlcli.tune.study import Study
from dlcli.ui.console import stderr, stdout
from dlcli.ui.differences import interval, verdict
from dlcli.ui.parts import print_parts
from dlcli.ui.progress.study import second_text, value_text
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.ui.tables import print_key_values
from dlcli.ui.text import duration, figure, signed

if TYPE_CHECKING:
    from dlcli.tune.outcome import Outcome
    from dlcli.tune.trials import Trial


def print_start(study: Study) -> None:
    """Print what is searched, on stderr."""
    tune, console = study.tune, stderr()
    count = wording.plural(study.trials, "trial")
    count += f" of {study.folds} folds each" if study.folds is not None else ""
    count += " (all settings that there are)" if study.trials < tune.trials else ""
    title = f"study {study.folder.name}: {count}, {tune.sampler}, pruner {tune.pruner}"
    if study.second:
        title += f" (two objectives: {study.monitor} and {study.second})"
    console.print(wording.printable(title), style="bold", soft_wrap=True)
    for model, search in study.models.items():
        for key, domain in search.domains.items():
            default = value_text(search.defaults[key])
            line = f"  {model}  {key}  {domain}  (default {default})"
            console.print(wording.printable(line), soft_wrap=True)


def print_finished(study: Study, result: Mapping[str, Any]) -> None:
    """Print that a study is finished, its best trial, and the command that adds trials."""
    folder, best, count = study.folder, result["best"], len(result["trials"])
    more = study.with_tune({"trials": count + 10}).trials > count
    lines = (
        f"study {folder.name} is finished: {wording.plural(count, 'trial')}; the best is {best['run']}, "
        f"{result['monitor']} {figure(best['value'])}",
        f"settings: {folder.best}",
        f"to add trials: {folder.resume_command} --trials {count + 10}"
        if more
        else "no trial can be added: these are all the settings that there are",
    )
    for line in lines:
        stdout().print(wording.printable(line), soft_wrap=True)


def print_outcome(outcome: Outcome, plots: Sequence[Path]) -> None:
    """Print the trials of a study, the best one, and whether it is better than the default."""
    study, best = outcome.study, outcome.best
    keys = list(dict.fromkeys(key for trial in outcome.trials for key in trial.settings))
    models = ["model"] if len(study.models) > 1 else []
    columns = [
        "trial",
        study.monitor,
        *([study.second, "front"] if study.second else []),
        "difference, 95 %",
        "epochs",
        "time",
        *models,
        *keys,
    ]
    rows = [_row(outcome, trial, keys) for trial in outcome.trials if trial.status != "failed"]
    print_parts("trials (difference: from trial-000, the default settings)", columns, rows)
    failed = [trial for trial in outcome.trials if trial.status == "failed"]
    if failed:
        stdout().print()
        lines = [Row(trial.name, wording.one_line(trial.reason)) for trial in failed]
        print_sections([Section(f"{wording.plural(len(failed), 'trial')} failed", lines)])
    stdout().print()
    facts = [
        ("best trial", f"{best.name}, {study.estimate} {study.monitor} {figure(best.value)}"),
        ("default", _against_default(outcome)),
        *_pooled(outcome),
        *_front(outcome),
        *_warnings(outcome),
        ("test", _test(outcome)),
        *_importance(outcome),
        ("settings", str(study.folder.best)),
        ("model", str(outcome.artifact)),
        ("plots", ", ".join(str(plot) for plot in plots) or "none"),
        ("next", f"dlcli train --config {as_typed(study.folder.best)}"),
    ]
    print_key_values(f"study {study.folder.name}", facts)


def _row(outcome: Outcome, trial: Trial, keys: Sequence[str]) -> list[str]:
    row = outcome.rows.get(trial.number)
    mark = " *" if trial is outcome.best else ""
    status = "" if trial.status == "finished" else f" ({trial.status})"
    if status and outcome.study.folds is not None:
        status = f" ({trial.status}: {trial.folds} of {outcome.study.folds} folds)"
    model = [trial.model] if len(outcome.study.models) > 1 else []
    return [
        f"{trial.name}{mark}{status}",
        "-" if math.isnan(trial.value) else figure(trial.value),
        *_second(outcome, trial),
        "-" if row is None else f"{interval(row)}, {verdict(row)}",
        str(trial.epochs),
        duration(trial.seconds),
        *model,
        *(value_text(trial.settings[key]) if key in trial.settings else "-" for key in keys),
    ]


def _second(outcome: Outcome, trial: Trial) -> list[str]:
    """The cells of a second objective, and of whether no other trial beats this one in both."""
    name = outcome.study.second
    on_front = "yes" if trial.number in outcome.front else ""
    return [second_text(name, trial.second), on_front] if name else []


def _pooled(outcome: Outcome) -> list[tuple[str, str]]:
    """Say where values and differences are of different samples."""
    if not outcome.pooled:
        return []
    text = f"{outcome.study.monitor} is the mean of folds, a difference is over all held-out samples"
    return [("", f"{text} together")]


def _front(outcome: Outcome) -> list[tuple[str, str]]:
    """Say what the front is, and which of it best.yaml is."""
    study = outcome.study
    if not study.second:
        return []
    count = wording.plural(len(outcome.front), "trial")
    timed = ", each architecture timed in turn at the end" if study.second == "latency" else ""
    return [
        (
            "front",
            f"{count} that no other beats in both {study.monitor} and {study.second}{timed}; each has "
            f"its settings in its folder, and {study.folder.best.name} is the best of {study.monitor}",
        )
    ]


def _against_default(outcome: Outcome) -> str:
    """Say whether the best trial is better than the default settings."""
    default = outcome.trials[0]
    row = outcome.rows.get(outcome.best.number)
    if outcome.best.number == 0:
        return "no trial is better than the default settings"
    if default.status != "finished":
        return f"trial-000 has not finished ({default.status}), so there is nothing to compare with"
    assert row is not None  # the best one is among those that are compared
    value, over = figure(default.value), f"paired, {outcome.study.samples}"
    if outcome.pooled:
        value, over = f"mean of folds {value}", f"paired, all {outcome.study.samples} together"
    words = {True: "better", False: "worse", None: "not significantly better"}[row.better]
    return (
        f"{value}; the best trial is {words}: {signed(row.difference)} "
        f"(95 % interval {interval(row)}, {over})"
    )


def _warnings(outcome: Outcome) -> list[tuple[str, str]]:
    rows = []
    if outcome.too_small:
        count = sum(trial.status == "finished" for trial in outcome.trials) - 1
        rows.append(
            (
                "warning",
                f"{outcome.study.samples} are few for so many trials: of {count} equally good settings "
                f"the best would be ahead of the default by {figure(outcome.chance)} by chance",
            )
        )
    if outcome.damaged:
        lines = wording.plural(outcome.damaged, "damaged line")
        rows.append(("warning", f"{lines} of {outcome.study.folder.journal} left out"))
    return rows


def _test(outcome: Outcome) -> str:
    """Say what the best model reaches on samples that chose nothing."""
    monitor = outcome.study.monitor
    if not outcome.test and "test" in outcome.study.splits:
        return "none: models of this task have no mean; dlcli eval measures those of the folds"
    if not outcome.test:
        return "the data has no test split, so the figure that chose this trial is the only one"
    value = figure(outcome.test[monitor]) if monitor in outcome.test else "undefined"
    samples = wording.plural(outcome.test_samples, "sample")
    folds = outcome.study.folds
    mean = "" if folds is None else f"the mean of the {folds} models: "
    return f"{mean}{monitor} {value} on {samples} of the test split, which the search never saw"


def _importance(outcome: Outcome) -> list[tuple[str, str]]:
    if not outcome.importance:
        return []
    shares = [f"{key} {100 * share:.0f}%" for key, share in outcome.importance.items()]
    count = sum(trial.status == "finished" for trial in outcome.trials)
    return [("importance", f"{', '.join(shares)} (PED-ANOVA, {count} trials)")]
