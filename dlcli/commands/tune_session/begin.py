"""Begin a study: check what is to be searched, on a plan of each model, and create the folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import __version__
from dlcli.commands.options import Settings
from dlcli.commands.train_session.begin import check_steps
from dlcli.commands.train_session.granted import check_reach, grant_reach
from dlcli.commands.train_session.report import Screen
from dlcli.commands.tune_session.work import check_engine
from dlcli.config import SearchConfig, TrainConfig, TuneConfig
from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.runs.folder import create_run, safe_name
from dlcli.settings import fields_of, flat, is_set, merge, nested, validate
from dlcli.tune.objectives import naming_objective, parse_objective, second_direction
from dlcli.tune.space import make_space, parse_search, texts_of
from dlcli.tune.study import ModelSearch, Study, StudyFolder

if TYPE_CHECKING:
    from dlcli.data.base import DataSource
    from dlcli.training.plan import Plan
    from dlcli.zoo.base import ModelEntry


# What makes trials comparable; the seed is that of the splits too.
_SAME = (
    *("data.data", "model.name", "fit.seed", "fit.monitor"),
    *("data.folds", "data.fold", "data.folds_test_fraction", "data.val_fraction", "data.test_fraction"),
)


def begin_study(settings: Settings[TuneConfig], name: str | None, root: Path, screen: Screen) -> Study:
    """Create a study below ``root``. Raises: DlcliError, UsageError; then there is no folder."""
    config = settings.resolve()
    _check_launch(config)
    check_engine(config.tune)
    metric, second = parse_objective(config.tune.objective)
    if second is not None:
        second_direction(second)
    tune = _of_objectives(config, second, typed=is_set(settings.overrides, "tune.pruner"))
    training = _training(settings, config, metric)
    search = parse_search(config.tune.search)
    names = list(dict.fromkeys(part.strip() for part in str(config.model.name or "").split(",")))
    check_steps(training)
    grant_reach(training)
    check_reach(config, config.launch)
    try:
        plans = _plans(training, names)
    except DlcliError as exc:
        exc.message = naming_objective(exc.message, config.tune.objective)
        exc.hint = exc.hint and naming_objective(exc.hint, config.tune.objective)
        raise
    models = {
        name: _model_search(plan, training.overrides, search, tune) for name, plan in plans.items()
    }
    _check_known(search, plans, models)
    first = next(iter(plans.values()))
    monitors = {plan.monitor for plan in plans.values()}
    if len(monitors) > 1:
        raise UsageError(
            f"the models are trained for different metrics: {', '.join(sorted(monitors))}",
            hint="name one of them: --monitor METRIC",
        )
    from dlcli.evaluation.metrics import direction

    label = "-".join(model.rpartition(":")[2] for model in names[:2])
    folder = StudyFolder(create_run(root, name or f"tune-{label}-{first.source.name}").path)
    study = Study(
        folder=folder,
        version=__version__,
        settings=_absolute(training.overrides, first.config),
        tune=tune,
        models=models,
        monitor=first.monitor,
        direction=direction(first.monitor),
        task=first.task.kind,
        seed=config.fit.seed,
        epochs=max(plan.config.fit.epochs for plan in plans.values()),
        data=first.source.name,
        fingerprint=first.source.fingerprint,
        val_samples=_samples(first.source, config.data.folds),
        splits=_splits(first.source, config.data.folds),
        folds=config.data.folds,
        second=second or "",
        second_direction=-1 if second is None else second_direction(second),
    )
    study.write()
    _show_start(study, name, screen)
    return study


def _check_launch(config: TuneConfig) -> None:
    """Raises: UsageError for trials of several processes, of one fold, or pruned by epochs of folds."""
    if config.data.fold is not None:
        raise UsageError("a trial of tune trains every fold, so data.fold is not for it")
    if config.data.folds is not None and config.tune.pruner == "hyperband":
        raise UsageError(
            "--pruner hyperband is of epochs, and trials with --folds are pruned after a fold",
            hint="--pruner median or none",
        )
    if config.launch != type(config.launch)():
        raise UsageError(
            "a trial of tune is trained in one process, so the settings of launch are not for it",
            hint="--workers N trains N trials at the same time",
        )


def _of_objectives(config: TuneConfig, second: str | None, *, typed: bool) -> SearchConfig:
    """Return the search without a pruner for two objectives. Raises: UsageError where one is typed."""
    if second is None or config.tune.pruner == "none":
        return config.tune
    if typed:
        raise UsageError(
            f"--pruner {config.tune.pruner} is for one objective: Optuna prunes no trials of two",
            hint="leave --pruner out",
        )
    return config.tune.model_copy(update={"pruner": "none"})


def _training(
    settings: Settings[TuneConfig], config: TuneConfig, metric: str | None
) -> Settings[TrainConfig]:
    """Return the settings of every trial; folds leave out what a run without them has as test.

    ``metric`` is that of ``--objective``, which is the one that trials are trained for. Raises:
    UsageError where another is typed.
    """
    data = config.data
    file, sets, flags = (
        {key: value for key, value in layer.items() if key != "tune"}
        for layer in (settings.file, settings.sets, settings.flags)
    )
    if metric is not None:
        if config.fit.monitor not in (None, metric):
            raise UsageError(
                f"--objective {config.tune.objective} and --monitor {config.fit.monitor} differ",
                hint="leave --monitor out",
            )
        flags = merge(flags, nested("fit.monitor", metric))
    if data.folds is not None and not is_set(settings.overrides, "data.folds_test_fraction"):
        flags = merge(flags, nested("data.folds_test_fraction", data.test_fraction))
    return Settings(TrainConfig, file, sets, flags, settings.file_name)


def _samples(source: DataSource, folds: int | None) -> int:
    """Return the number of samples that trials are compared on."""
    if folds is None:
        return len(source.splits["val"])
    test = source.splits["test"]
    if source.task == "forecast" or test.clock is not None:
        return folds * len(test)  # the rows before the first fold are held out by none
    return sum(map(len, source.splits.values()))


def _splits(source: DataSource, folds: int | None) -> tuple[str, ...]:
    """Return the splits of the data; test of folds is what is in none of them."""
    if folds is None:
        return tuple(source.splits)
    return ("train", "val", "test") if source.left_out else ("train", "val")


def _plans(training: Settings[TrainConfig], names: list[str]) -> dict[str, Plan]:
    """Return a plan of each model with the settings that are not searched. Raises: DlcliError."""
    from dlcli.training.request import open_requested

    flags = training.flags
    if training.resolve().data.folds is not None:
        flags = merge(flags, nested("data.fold", 1))
    requests = {
        name: replace(training, flags=merge(flags, nested("model.name", name or None))) for name in names
    }
    sources = {name: open_requested(request.resolve()) for name, request in requests.items()}

    from dlcli.training.planning import make_plan
    from dlcli.training.prepare import prepare_run

    plans = {name: make_plan(request.resolve, sources[name]) for name, request in requests.items()}
    for plan in plans.values():
        prepare_run(plan)
    return plans


def _model_search(
    plan: Plan, fixed: Mapping[str, Any], search: dict[str, str], tune: SearchConfig
) -> ModelSearch:
    """Return what is searched for a model: what the user asks for, else its own search space."""
    from dlcli.zoo.base import find_model

    entry = find_model(plan.model.name, plan.task.input.kind)
    values = {**flat(plan.config), **{f"model.args.{k}": v for k, v in plan.model.args.items()}}
    if search:
        domains = {key: text for key, text in search.items() if _has(key, entry)}
    else:
        domains = {
            key: text
            for key, text in entry.search.items()
            if not is_set(fixed, key) and values.get(key) not in (None, "auto")
        }
    for key in search:
        if is_set(fixed, key):
            raise UsageError(f"{key} is set, and --search has it too", hint="leave one of them out")
    defaults = {key: _value(values, key) for key in domains}
    space = make_space(domains, defaults)
    for key, domain in space.items():
        _check_ends(key, domain.ends(), plan, entry)
        if tune.sampler == "grid" and domain.grid() is None:
            raise UsageError(
                f"--sampler grid: {key}={texts_of({key: domain})[key]} has no end of values",
                hint=f"--search {key}=A|B|C, or with a step: {key}=LOW..HIGH:STEP",
            )
    return ModelSearch(texts_of(space), defaults)


def _has(key: str, entry: ModelEntry) -> bool:
    """Return whether a setting is one of the model: other models may have no such argument."""
    return not key.startswith("model.args.") or key.split(".")[2] in entry.args.model_fields


def _check_known(
    search: Mapping[str, str], plans: Mapping[str, Plan], models: Mapping[str, ModelSearch]
) -> None:
    """Raises: UsageError for a setting that no model has."""
    from dlcli.zoo.base import find_model

    known = set(fields_of(TrainConfig))
    for plan in plans.values():
        arguments = find_model(plan.model.name, plan.task.input.kind).args.model_fields
        known |= {f"model.args.{name}" for name in arguments}
    for key in search:
        if not any(key in model.domains for model in models.values()):
            raise UsageError(f"--search: no model here has a setting {key!r}", hint=nearest(key, known))
    for name, model in models.items():
        if not model.domains:
            raise UsageError(
                f"nothing is left to search for {name}",
                hint="name settings of it: --search 'optim.lr=1e-4..1e-2:log'",
            )


def _check_ends(key: str, values: list[Any], plan: Plan, entry: ModelEntry) -> None:
    """Raises: UsageError where a value of a domain is not allowed, or the setting unknown."""
    for value in values:
        if key.startswith("model.args."):
            entry.arguments(merge(plan.model.args, nested(key.removeprefix("model.args."), value)))
        else:
            validate(TrainConfig, merge(plan.config.model_dump(mode="json"), nested(key, value)))
    if key in _SAME or key.partition(".")[0] == "launch":
        raise UsageError(
            f"--search: {key} is the same in all trials", hint="--model A,B searches models"
        )


def _value(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a setting; of an argument in a mapping too, None where it is not set."""
    if key in values:
        return values[key]
    group, _, rest = key.rpartition(".")
    mapping = _value(values, group) if group else None
    return mapping.get(rest) if isinstance(mapping, Mapping) else None


def _absolute(overrides: dict[str, Any], planned: TrainConfig) -> dict[str, Any]:
    """Return the user's settings with the paths of the plan, which hold in any folder."""
    settings = overrides
    for key, value in flat(planned).items():
        if isinstance(value, str) and key != "model.name" and is_set(overrides, key):
            settings = merge(settings, nested(key, value))
    return settings


def _show_start(study: Study, name: str | None, screen: Screen) -> None:
    from dlcli.events import Warned
    from dlcli.ui.progress.sinks import progress_sink
    from dlcli.ui.tune import print_start

    with progress_sink(screen.quiet, screen.as_json) as show:
        if name is not None and study.folder.name != safe_name(name):
            show(Warned(f"there is {safe_name(name)} already, so this study is {study.folder.name}"))
    if not (screen.quiet or screen.as_json):
        print_start(study)
