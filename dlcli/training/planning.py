"""Make the plan of a new run from its settings, or read that of an existing run from its folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dlcli.card import ModelSpec, TransformRecord
from dlcli.config import ModelConfig, TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.kinds import KINDS
from dlcli.data.notices import messages
from dlcli.data.splits import apply_splits
from dlcli.data.text.word_vectors import WordVectors, read_word_vectors
from dlcli.errors import DlcliError, UsageError, naming
from dlcli.files import sha256_file
from dlcli.formats.checkpoint import card_of, read_tensors
from dlcli.formats.encodings.base import decode
from dlcli.formats.initial_weights import find_initial_weights
from dlcli.runs.folder import DEFAULT_ROOT, RunFolder, find_artifact
from dlcli.runs.saved import SavedRun
from dlcli.settings import merge
from dlcli.task import TaskSpec, TextInput
from dlcli.training.autotune.features import head_recipe
from dlcli.training.estimators import check_settings
from dlcli.training.lora import LORA_RECIPE, lora_record
from dlcli.training.plan import Plan
from dlcli.training.recorded_paths import open_recorded, with_absolute_paths, with_recorded_paths
from dlcli.training.request import open_requested
from dlcli.zoo.base import MODELS, ModelEntry, check_name, find_model
from dlcli.zoo.heads import HeadArgs
from dlcli.zoo.matching import StateDict
from dlcli.zoo.saved_optimizer import SavedOptimizer


def make_plan(
    resolve: Callable[[dict[str, Any]], TrainConfig], source: DataSource | None = None
) -> Plan:
    """The plan of a new run; ``resolve(recipe)`` gives the settings over a model's recipe.

    ``source`` is what `open_requested` listed for these settings; by default it is listed here.

    Raises: UsageError when the model or the data is not named or does not fit; DlcliError from the
    data, and when ``--pretrained`` is set and the weights are not available.
    """
    user_config = resolve({})
    source = source or open_requested(user_config)
    assert user_config.model.name is not None  # `open_requested` requires it
    check_name(user_config.model.name)
    if any(
        "\ud800" <= letter <= "\udfff" for letter in source.origin
    ):  # surrogates of os.fsdecode, which JSON cannot hold
        raise DlcliError(
            f"{source.origin!a} is no UTF-8 name in this locale, so no run can record it",
            hint="rename the folder, or give a link to it with a UTF-8 name"
            if sys.getfilesystemencoding().lower() == "utf-8"
            else "set a UTF-8 locale: LC_ALL=C.UTF-8",
        )
    kind = KINDS.get(source.kind)
    entry = find_model(user_config.model.name, kind.name)
    check_settings(entry, user_config)
    if user_config.model.word_vectors is not None and entry.word_vectors is None:
        others = sorted({other.name for _, other in MODELS.entries() if other.word_vectors})
        raise UsageError(
            f"--word-vectors: model {entry.name} has no embedding of words",
            hint=f"these have: {', '.join(others)}",
        )
    if source.task not in entry.tasks:
        raise UsageError(
            f"model {entry.name} does {', '.join(entry.tasks)} on {kind.name} data, not {source.task}",
            hint="dlcli models lists what each model does; --task sets the task",
        )
    warnings = messages(notice for notice in source.notices if not notice.is_decision)
    decisions = messages(notice for notice in source.notices if notice.is_decision)
    initial = find_initial_weights(entry, user_config.model, warnings, offline=user_config.data.offline)
    # A file without a card is taken to have the preprocessing of the model's published weights.
    published = entry.weights if initial.state is not None and initial.task is None else None
    if published is not None and user_config.model.weights is not None:
        decisions.append(f"images are resized and normalised as for {published.label}")
    recipe = merge(entry.recipe_for(source.task), published.recipe if published else {})
    recipe = merge(recipe, initial.recipes.get(source.task, {}))
    recipe = merge(recipe, LORA_RECIPE if user_config.model.lora is not None else {})
    recipe = merge(recipe, head_recipe(user_config, source))
    config = with_absolute_paths(
        _with_teacher_path(_with_own_weights(resolve(recipe), entry)),
        source,
        entry.name,
        weights=initial.source,
    )
    needs = replace(entry.needs, name=entry.name, text=initial.text)
    if published is not None:
        needs = replace(needs, mean=published.mean, std=published.std)
    with naming(source.origin):
        task, notices = kind.fit(source, config, needs)
    task = task.model_copy(update={"metrics": config.fit.metrics})
    word_vectors = _word_vectors(config.model, task)
    spec = ModelSpec(name=entry.name, args=_model_args(entry, config.model, initial.args, word_vectors))
    lora = lora_record(config.model, spec, task)
    vector_notes = [] if word_vectors is None else [word_vectors.sentence()]
    return Plan(
        config=config,
        source=source,
        task=task,
        model=spec,
        weights_from=initial.source,
        initial=initial.state,
        initial_task=initial.task,
        initial_optimizers=initial.optimizers,
        word_vectors=word_vectors,
        recipe=recipe,
        user_config=user_config,
        transforms=() if lora is None else (lora,),
        warnings=tuple(warnings),
        notes=tuple(dict.fromkeys([*decisions, *messages(notices), *vector_notes])),
    )


def read_plan(saved: SavedRun, *, fresh: bool) -> Plan:
    """The plan of a saved run.

    With ``fresh`` it has the initial weights too, as of a run that was stopped before its first state.
    Raises: DlcliError when the data is missing or no longer has the samples that it was trained on.
    """
    run, record, config = saved.folder, saved.record, saved.config
    for key, value in (("optim.lr", config.optim.lr), ("fit.batch_size", config.fit.batch_size)):
        if value == "auto":
            raise UsageError(
                f"{key} = auto is resolved before a run begins, and {run.name} has begun",
                hint=f"give a number, or start a new run from this one's weights: --weights {run.best}",
            )
    _check_teacher(saved)
    config = with_recorded_paths(saved)
    source = open_recorded(saved, config)
    source, changed = apply_splits(run.splits, source)
    changed = [message for message in changed if message not in saved.edits]
    if changed:
        raise DlcliError(
            f"run {run.name} cannot be resumed: {changed[0]}",
            hint="put the data back as it was, or start a new run "
            f"from this one's weights: --weights {run.best}",
        )
    try:
        saved_plan = record["plan"]
        task = TaskSpec.model_validate(saved_plan["task"])
        model = ModelSpec.model_validate(saved_plan["model"])
        weights_from, initial, initial_task = str(saved_plan["weights_from"]), None, None
        transforms = tuple(map(TransformRecord.model_validate, saved_plan.get("transforms", ())))
        parent = saved_plan.get("parent")
        warnings = tuple(map(str, record.get("warnings", ())))
        notes = tuple(map(str, record.get("notes", ())))
    except (KeyError, TypeError, ValidationError) as exc:
        raise DlcliError(
            f"run {run.name} cannot be resumed: {run.record} is damaged",
            hint=f"start a new run from this one's weights: --weights {run.best}",
        ) from exc
    optimizers: tuple[SavedOptimizer, ...] = ()
    if fresh and parent is not None:
        initial = load_start(run)
    elif fresh and weights_from != "scratch":
        # With other weights it would be another run, so here they are required.
        required = config.model.model_copy(update={"pretrained": config.model.weights is None})
        weights = find_initial_weights(
            find_model(model.name, task.input.kind), required, [], offline=config.data.offline
        )
        initial, initial_task, optimizers = weights.state, weights.task, weights.optimizers
    word_vectors = _recorded_word_vectors(saved, task) if fresh and parent is None else None
    return Plan(
        config=config,
        source=source,
        task=task.model_copy(update={"metrics": config.fit.metrics}),
        model=model,
        weights_from=weights_from,
        initial=initial,
        initial_task=initial_task,
        initial_optimizers=optimizers,
        word_vectors=word_vectors,
        transforms=transforms,
        parent=parent,
        warnings=warnings,
        notes=notes,
    )


def load_start(run: RunFolder) -> StateDict:
    """The weights that a fine-tuned run began with. Raises: DlcliError when the file is damaged."""
    stored, _ = read_tensors(run.start)
    try:
        return decode(stored, card_of(run.start).transforms)
    except ValueError as exc:
        raise DlcliError(f"{run.start}: its tensors do not fit its card: {exc}") from exc


def _with_teacher_path(config: TrainConfig) -> TrainConfig:
    """Make the path of the teacher absolute: a run may be resumed elsewhere. Raises: DlcliError."""
    if config.loss.teacher is None:
        return config
    path = find_artifact(config.loss.teacher, DEFAULT_ROOT).resolve()
    return config.model_copy(update={"loss": config.loss.model_copy(update={"teacher": str(path)})})


def _with_own_weights(config: TrainConfig, entry: ModelEntry) -> TrainConfig:
    """The settings with the place of an encoder's weights, where its name is that place."""
    if config.model.weights is not None or entry.snapshot_from is None:
        return config
    model = config.model.model_copy(update={"weights": entry.snapshot_from})
    return config.model_copy(update={"model": model})


def _check_teacher(saved: SavedRun) -> None:
    """Raises: DlcliError when the teacher is missing or not the file that the run began with."""
    if saved.config.loss.teacher is None:
        return
    path = Path(saved.config.loss.teacher)
    if not path.is_file() or sha256_file(path) != saved.record.get("teacher_sha256"):
        raise DlcliError(
            f"run {saved.name} cannot be resumed: its teacher {path} is missing or has changed",
            hint="put it back, or start a new run from this one's weights: "
            f"--weights {saved.folder.best}",
        )


def _word_vectors(model: ModelConfig, task: TaskSpec) -> WordVectors | None:
    """The vectors of the vocabulary's words, where a file of them is named. Raises: DlcliError."""
    if model.word_vectors is None:
        return None
    assert isinstance(task.input, TextInput)
    return read_word_vectors(Path(model.word_vectors), task.input)


def _recorded_word_vectors(saved: SavedRun, task: TaskSpec) -> WordVectors | None:
    """The vectors that a run began with. Raises: DlcliError when the file is missing or has changed."""
    vectors = _word_vectors(saved.config.model, task)
    if vectors is not None and list(vectors.digests) != saved.record.get("word_vectors_sha256"):
        raise DlcliError(
            f"run {saved.name} cannot be resumed: its word vectors {vectors.path} have changed",
            hint="put the file back, or start a new run",
        )
    return vectors


def _model_args(
    entry: ModelEntry, model: ModelConfig, given: dict[str, Any], vectors: WordVectors | None
) -> dict[str, Any]:
    """The arguments: those ``given`` by the weights, under those of the settings."""
    values = {**given, **model.args}
    if vectors is not None:
        assert entry.word_vectors is not None  # `make_plan` refuses other models
        dim = values.setdefault(entry.word_vectors, vectors.dim)
        if dim != vectors.dim:
            raise UsageError(
                f"model.args.{entry.word_vectors} = {dim}, and the vectors of {vectors.path.name} "
                f"have {vectors.dim} numbers",
                hint="leave it out",
            )
    if "head" in entry.args.model_fields:
        values.setdefault("head", model.head)
    elif model.head != "linear":
        raise UsageError(
            f"--head {model.head} is for models of torchvision, timm and bert; {entry.name} has its own"
        )
    if values.get("head") == "linear" and issubclass(entry.args, HeadArgs):
        for key in entry.args.only_mlp:
            if key in model.args:
                raise UsageError(f"model.args.{key} is for --head mlp", hint="add --head mlp")
    return entry.arguments(values).model_dump(mode="json")
