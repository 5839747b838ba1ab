"""What a new run is asked to do, checked before torch is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.runs.folder import DEFAULT_ROOT, find_artifact
from dlcli.settings import check_applies, fields_of, flat, texts
from dlcli.task import TaskKind
from dlcli.trust import code_files
from dlcli.zoo.hub import check_available
from dlcli.zoo.names import HF_PREFIX, check_kind, check_spelling, hub_name

if TYPE_CHECKING:
    from dlcli.data.base import DataSource
    from dlcli.data.kinds import DataKind


def check_request(config: TrainConfig) -> None:
    """Check that a model and data are named, spelling, settings without effect. Raises: UsageError."""
    if config.model.name is None:
        raise UsageError("--model is missing", hint="dlcli train --model cnn --data digits")
    if config.data.data is None:
        raise UsageError(
            "--data is missing", hint=f"dlcli train --model {config.model.name} --data FOLDER"
        )
    check_applies(config)
    _check_word_vectors(config)
    check_spelling(config.model.name)


def open_requested(config: TrainConfig) -> DataSource:
    """Check the request and list its data. Raises: UsageError; DlcliError from the data."""
    check_request(config)
    _check_files(config)
    # Half a second of imports, of the three until there is an error about the network.
    from dlcli.data.kinds import KINDS
    from dlcli.data.sources import open_source

    source = open_source(config.data, seed=config.fit.seed)
    check_kind(str(config.model.name), source.kind)
    if not config.fit.metrics:  # whose names are known when their code has run
        _check_monitor(config.fit.monitor, source.task)
    _check_kind_settings(config, KINDS.get(source.kind))
    return source


def _check_word_vectors(config: TrainConfig) -> None:
    """Raises: UsageError for word vectors with other weights, or with parts of words as tokens."""
    if config.model.word_vectors is None:
        return
    if config.model.weights is not None:
        raise UsageError(
            "--word-vectors and --weights exclude each other",
            hint="the weights of a model have its word vectors in them",
        )
    if config.data.tokenizer != "word":
        raise UsageError(
            f"--word-vectors are for --tokenizer word, not {config.data.tokenizer}",
            hint="leave one of them out",
        )


def _check_monitor(name: str | None, task: TaskKind) -> None:
    """Raises: UsageError for a metric of no task; which of them a task has is checked with the plan."""
    from dlcli.evaluation.metrics import directions, metrics_of

    if name is not None and name not in directions() and "_" not in name:
        known = metrics_of(task)
        raise UsageError(f"--monitor {name!r} is not a metric of {task}", hint=nearest(name, known))


def _check_files(config: TrainConfig) -> None:
    """Raises: DlcliError where a file that a setting names does not exist."""
    weights = config.model.weights
    if config.model.optimizer_state and weights is None:
        raise UsageError("--optimizer-state is for --weights FILE", hint="leave it out")
    if weights is not None and not Path(weights).exists() and hub_name(weights) is None:
        raise DlcliError(f"--weights {weights} does not exist")
    _check_encoder(str(config.model.name), weights, offline=config.data.offline)
    vectors = config.model.word_vectors
    if vectors is not None and not Path(vectors).is_file():
        raise DlcliError(f"--word-vectors {vectors} does not exist, or is no file")
    cache, data = config.data.cache_dir, os.path.realpath(str(config.data.data))
    if cache is not None and os.path.isdir(data) and Path(os.path.realpath(cache)).is_relative_to(data):
        raise UsageError(
            f"--cache-dir {cache} is in the data folder, where dlcli never writes",
            hint="give a folder outside of it",
        )
    if config.loss.teacher is not None:
        find_artifact(config.loss.teacher, DEFAULT_ROOT)
    for path in code_files(texts(flat(config))):
        if not path.exists():
            raise DlcliError(
                f"the code {path} does not exist", hint="it is named as path/to/file.py:NAME"
            )


def _check_encoder(model: str, weights: str | None, *, offline: bool) -> None:
    """Raises: DlcliError where a published encoder is neither here nor to be fetched: without torch."""
    of_transformers = model.startswith(HF_PREFIX)
    place = weights or (model.removeprefix(HF_PREFIX) if of_transformers else None)
    encoder = model == "bert" or of_transformers
    if encoder and place is not None and not Path(place).exists() and hub_name(place) is not None:
        check_available(place, offline=offline)


def _check_kind_settings(config: TrainConfig, kind: DataKind[Any]) -> None:
    """Raises: UsageError for settings of another kind of data."""
    from dlcli.data.kinds import kinds_in_order

    fields = fields_of(TrainConfig)
    owners: dict[str, list[str]] = {}
    for entry in kinds_in_order():
        for key in entry.own_settings:
            owners.setdefault(key, []).append(entry.name)
    for key, names in owners.items():
        group, name = key.split(".")
        value = getattr(getattr(config, group), name)
        # --no-pretrained is true of every kind.
        unused = value == fields[key].default or (key == "model.pretrained" and not value)
        if kind.name not in names and not unused:
            flags = fields[key].json_schema_extra["flags"]
            raise UsageError(
                f"{flags[0].partition('/')[0] if flags else key} is for {' and '.join(names)} data, "
                f"and this is {kind.name}",
                hint="leave it out, or give --kind",
            )
