"""The plots of a study: the metric by trial, the settings of all trials, their importance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.ui.plots.canvas import BLUE, GREY, ORANGE, add_grid, add_run_name, new_figure, save_figure
from dlcli.wording import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dlcli.tune.outcome import Outcome
    from dlcli.tune.study import Study
    from dlcli.tune.trials import Trial

_LABEL = 28  # characters of a setting or a value


def save_study(outcome: Outcome) -> list[Path]:
    """Draw all plots of a study; returns their paths. Raises: DlcliError when one cannot be written."""
    plots = [save_history(outcome), save_parallel(outcome)]
    if outcome.study.second:
        plots.append(save_front(outcome))
    return [*plots, save_importance(outcome)] if outcome.importance else plots


def save_history(outcome: Outcome) -> Path:
    """Draw the metric of each trial, and the best so far."""
    study = outcome.study
    fig, (axes,) = new_figure(7.0, 4.2, columns=(1,))
    for status, color, label in (("finished", BLUE, "finished"), ("pruned", GREY, "pruned")):
        trials = [trial for trial in outcome.trials if trial.status == status]
        axes.plot(
            [trial.number for trial in trials],
            [trial.value for trial in trials],
            color=color,
            marker="o",
            linestyle="",
            label=label,
        )
    finished = [trial for trial in outcome.trials if trial.status == "finished"]
    best = [
        max(study.direction * other.value for other in finished[: i + 1]) * study.direction
        for i in range(len(finished))
    ]
    numbers = [*(trial.number for trial in finished), outcome.trials[-1].number]
    axes.step(numbers, [*best, best[-1]], where="post", color=ORANGE, linewidth=1.5, label="best so far")
    axes.set_xlabel("trial", fontsize=10)
    axes.set_ylabel(printable(f"{study.estimate} {study.monitor}"), fontsize=10)
    add_grid(axes)
    axes.legend(fontsize=9, frameon=False)
    add_run_name(fig, study.folder.name)
    return save_figure(fig, study.folder.plots / "history.png")


def save_parallel(outcome: Outcome) -> Path:
    """Draw each trial as a line over one axis a setting, coloured by the metric."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    study = outcome.study
    trials = [trial for trial in outcome.trials if trial.status in ("finished", "pruned")]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    columns = [_Axis(key, trials, study) for key in keys]
    if len(study.models) > 1:
        columns.insert(0, _Axis("model", trials, study))
    fig, (axes,) = new_figure(max(6.0, 2.2 * (len(columns) + 1)), 4.6, columns=(1,))
    values = [trial.value for trial in trials]
    norm = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1e-9)
    colors = ScalarMappable(norm, "viridis" if study.direction > 0 else "viridis_r")
    for trial in sorted(trials, key=lambda trial: study.direction * trial.value):
        points = [(x, y) for x, axis in enumerate(columns) if (y := axis.position(trial)) is not None]
        points.append((len(columns), norm(trial.value)))
        is_best = trial is outcome.best
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=ORANGE if is_best else colors.cmap(norm(trial.value)),
            linewidth=2.5 if is_best else 1.0,
            alpha=1.0 if is_best else 0.7,
        )
    _label(axes, columns, f"{study.estimate} {study.monitor}", (norm.vmin or 0.0, norm.vmax or 0.0))
    add_run_name(fig, study.folder.name, "the best trial in orange")
    return save_figure(fig, study.folder.plots / "parallel.png")


def save_front(outcome: Outcome) -> Path:
    """Draw each finished trial by both objectives; those that no other one beats are joined."""
    study = outcome.study
    fig, (axes,) = new_figure(7.0, 4.6, columns=(1,))
    finished = [trial for trial in outcome.trials if trial.status == "finished"]
    front = sorted((outcome.trials[n] for n in outcome.front), key=lambda trial: trial.second)
    others = [trial for trial in finished if trial not in front]
    axes.plot(*_points(others), color=GREY, marker="o", linestyle="", label="others")
    axes.plot(*_points(front), color=BLUE, marker="o", label="front")
    for trial in front:
        axes.annotate(
            trial.name,
            (trial.second, trial.value),
            (5, 4),
            textcoords="offset points",
            fontsize=8,
        )
    unit = {"latency": ", ms", "size": ", bytes"}.get(study.second, "")
    axes.set_xlabel(printable(f"{study.second}{unit}"), fontsize=10)
    axes.set_ylabel(printable(f"{study.estimate} {study.monitor}"), fontsize=10)
    add_grid(axes)
    axes.legend(fontsize=9, frameon=False)
    add_run_name(fig, study.folder.name)
    return save_figure(fig, study.folder.plots / "front.png")


def _points(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [trial.second for trial in trials], [trial.value for trial in trials]


def save_importance(outcome: Outcome) -> Path:
    """Draw the importance of each setting."""
    study = outcome.study
    names = [shorten(printable(key), _LABEL) for key in outcome.importance]
    fig, (axes,) = new_figure(6.0, 1.2 + 0.4 * len(names), columns=(1,))
    axes.barh(names[::-1], list(outcome.importance.values())[::-1], color=BLUE)
    axes.set_xlabel("importance (PED-ANOVA)", fontsize=10)
    add_grid(axes)
    add_run_name(fig, study.folder.name)
    return save_figure(fig, study.folder.plots / "importance.png")


class _Axis:
    """One axis of the parallel coordinates: positions from 0 to 1, and its labels."""

    def __init__(self, key: str, trials: Sequence[Trial], study: Study) -> None:
        import math

        from dlcli.tune.space import Range

        self.key = key
        domains = [search.space[key] for search in study.models.values() if key in search.space]
        values = [self._value(trial) for trial in trials]
        values = [value for value in values if value is not None]
        self._log = bool(domains) and all(isinstance(d, Range) and d.log for d in domains)
        self._names: list[str] | None = None
        if domains and all(isinstance(domain, Range) for domain in domains):
            scaled = [math.log(value) if self._log else value for value in values]
            self._low, self._high = min(scaled), max(scaled)
            self.labels = {0.0: f"{min(values):.3g}", 1.0: f"{max(values):.3g}"}
        else:
            self._names = list(dict.fromkeys(map(str, values)))
            self.labels = {self._at(name): name for name in self._names}

    def position(self, trial: Trial) -> float | None:
        """The place of a trial's value; None where it has none."""
        import math

        value = self._value(trial)
        if value is None:
            return None
        if self._names is not None:
            return self._at(str(value))
        scaled = math.log(value) if self._log else value
        return 0.5 if self._high == self._low else float((scaled - self._low) / (self._high - self._low))

    def _value(self, trial: Trial) -> Any:
        return trial.model if self.key == "model" else trial.settings.get(self.key)

    def _at(self, name: str) -> float:
        assert self._names is not None
        return self._names.index(name) / max(1, len(self._names) - 1)


def _label(axes: Axes, columns: Sequence[_Axis], monitor: str, ends: tuple[float, float]) -> None:
    names = [*(column.key for column in columns), monitor]
    axes.set_xticks(range(len(names)), [shorten(printable(name), _LABEL) for name in names], fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(-0.05, 1.05)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    labels = [*(column.labels for column in columns), {0.0: f"{ends[0]:.4g}", 1.0: f"{ends[1]:.4g}"}]
    for x, texts in enumerate(labels):
        axes.axvline(x, color="#BBBBBB", linewidth=1, zorder=0)
        for y, name in texts.items():
            axes.annotate(
                shorten(printable(name), _LABEL), (x, y), (3, 2), textcoords="offset points", fontsize=8
            )
