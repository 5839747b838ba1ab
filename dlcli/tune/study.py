"""A study: its folder, and what was decided when it began."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dlcli.config import SearchConfig, TrainConfig
from dlcli.config.migrate import migrate
from dlcli.errors import DlcliError, nearest
from dlcli.files import read_json, write_json
from dlcli.runs.folder import STUDY, RunFolder
from dlcli.runs.folds import FoldsFolder
from dlcli.runs.group import RunGroup
from dlcli.settings import merge, nested
from dlcli.tune.space import Space, grid_size, make_space
from dlcli.wording import plural


class StudyFolder(RunGroup):
    """One study: ``study.json journal.log best.yaml plots/`` and its runs ``trial-000/``..."""

    RECORD, RUN = STUDY, "trial-{:03d}"
    NOUN, COMMAND = "study", "tune"

    def folds(self, number: int) -> FoldsFolder:
        """The cross-validation that a trial is, in a study with folds."""
        return FoldsFolder(self.run(number).path)

    def runs(self) -> list[RunFolder]:
        """The trials that have begun, and the folds of those that are cross-validations."""
        return [
            *super().runs(),
            *(run for group in FoldsFolder.below(self.path) for run in group.runs()),
        ]

    def claims(self) -> list[Path]:
        """The folders of `claim` that there are, those of folds among them."""
        return [
            *super().claims(),
            *(path for group in FoldsFolder.below(self.path) for path in group.claims()),
        ]

    @property
    def journal(self) -> Path:
        return self.path / "journal.log"

    @property
    def best(self) -> Path:
        """The settings of the best trial, for ``train --config``."""
        return self.path / "best.yaml"

    @property
    def result(self) -> Path:
        """What the study gave, as ``--json`` prints it."""
        return self.path / "result.json"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    def errors(self, number: int) -> Path:
        """The traceback of a trial that ended with an error of code."""
        return self.path / "errors" / f"trial-{number:03d}.txt"


@dataclass(frozen=True)
class ModelSearch:
    """What is searched for one model: the text of each setting's domain, and its value by default."""

    domains: dict[str, str]
    defaults: dict[str, Any]

    @property
    def space(self) -> Space:
        return make_space(self.domains, self.defaults)

    @property
    def default_params(self) -> dict[str, Any]:
        """The parameters of the defaults, without settings whose default is not in their domain."""
        params = {key: domain.param(self.defaults[key]) for key, domain in self.space.items()}
        return {key: param for key, param in params.items() if param is not None}

    @property
    def size(self) -> int | None:
        """The number of different settings, defaults among them; None where there is no end of them."""
        size, space = grid_size(self.space), self.space
        return None if size is None else size + (len(self.default_params) < len(space))


@dataclass(frozen=True)
class Study:
    """A study as `read_study` gives it.

    ``settings`` are the user's for every trial, nested; ``models`` what is searched for each, in the
    order given. ``monitor`` is the metric that is searched for on the validation split, of
    ``val_samples``, and ``direction`` is 1 where more of it is better, else -1. ``fingerprint`` is that
    of the data. ``epochs`` are the most of any model. With ``folds`` each trial is a cross-validation,
    the metric the mean over its held-out folds, and ``val_samples`` are all those that are held out.
    ``second`` is the second objective, "" without one, and ``second_direction`` is as ``direction``.
    """

    folder: StudyFolder
    version: str
    settings: dict[str, Any]
    tune: SearchConfig
    models: dict[str, ModelSearch]
    monitor: str
    direction: int
    task: str
    seed: int
    epochs: int
    data: str
    fingerprint: str
    val_samples: int
    splits: tuple[str, ...]
    folds: int | None = None
    second: str = ""
    second_direction: int = -1

    @property
    def directions(self) -> list[int]:
        """The direction of each objective."""
        return [self.direction, self.second_direction] if self.second else [self.direction]

    def first_run(self, number: int) -> RunFolder:
        """The run of a trial, or that of its first fold."""
        return self.folder.run(number) if self.folds is None else self.folder.folds(number).run(1)

    @property
    def estimate(self) -> str:
        """Of what the metric is, in a word: val, or 3-fold."""
        return "val" if self.folds is None else f"{self.folds}-fold"

    @property
    def samples(self) -> str:
        """The samples that trials are compared on, in words."""
        return plural(self.val_samples, "validation sample" if self.folds is None else "held-out sample")

    def request(self, model: str) -> dict[str, Any]:
        """Return the nested settings by which the data of a trial is opened."""
        settings = merge(self.settings, nested("model.name", model))
        return settings if self.folds is None else merge(settings, nested("data.fold", 1))

    @property
    def trials(self) -> int:
        """The number of trials: those asked for, or as many as there are different settings."""
        sizes = [model.size for model in self.models.values()]
        known = [size for size in sizes if size is not None]
        return min(self.tune.trials, sum(known)) if len(known) == len(sizes) else self.tune.trials

    def trial_settings(self, model: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the nested settings of a trial over the defaults and the model's recipe."""
        space = self.models[model].space
        own = [nested(key, space[key].value(param)) for key, param in params.items()]
        return merge(self.settings, nested("model.name", model), *own)

    def with_tune(self, changes: Mapping[str, Any]) -> Study:
        """Return the study with other values of `SearchConfig`."""
        return replace(self, tune=self.tune.model_copy(update=dict(changes)))

    def write(self) -> None:
        """Write study.json. Raises: DlcliError."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values.pop("folder")
        models = {name: asdict(model) for name, model in self.models.items()}
        write_json(
            self.folder.record,
            {**values, "tune": self.tune.model_dump(mode="json"), "models": models},
        )


def read_study(folder: StudyFolder) -> Study:
    """Read the study of a folder. Raises: DlcliError where study.json is damaged."""
    values = read_json(folder.record)
    try:
        settings = migrate(TrainConfig, values["settings"], version=values["version"])
        return Study(
            **{
                **values,
                "folder": folder,
                "settings": settings,
                "tune": SearchConfig.model_validate(values["tune"]),
                "models": {name: ModelSearch(**model) for name, model in values["models"].items()},
                "splits": tuple(values["splits"]),
            }
        )
    except (TypeError, KeyError, AttributeError, ValueError, ValidationError) as exc:
        raise DlcliError(f"{folder.record} is damaged: {exc}", hint="begin a new study") from exc


def find_study(text: str, root: Path) -> StudyFolder:
    """Find the study that ``text`` names: "last", a name or a path. Raises: DlcliError."""
    studies = list(StudyFolder.below(root))
    if text == "last" and studies:
        return max(studies, key=lambda study: study.record.stat().st_mtime)
    if folder := StudyFolder.find(text, root):
        return folder
    known = nearest(text, [study.name for study in studies]) if studies else None
    raise DlcliError(
        f"there is no study {text!r} in {root}{os.sep}",
        hint=known or "begin one: dlcli tune --model cnn --data digits",
    )
