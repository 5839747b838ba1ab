"""Training from Python: the same runs as of `dlcli train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from dlcli.api.models import Model, load
from dlcli.api.python_words import python_words
from dlcli.commands.options import Settings
from dlcli.commands.train_session.begin import begin_run
from dlcli.commands.train_session.granted import grant_reach
from dlcli.commands.train_session.report import Screen
from dlcli.commands.train_session.resume import resume_run
from dlcli.config import TrainConfig
from dlcli.config.migrate import migrate
from dlcli.errors import UsageError, nearest
from dlcli.formats.base import read_card
from dlcli.runs.folder import DEFAULT_ROOT, RunFolder, read_events
from dlcli.settings import fields_of, load_yaml, merge, nested
from dlcli.synonyms import key_for


@dataclass(frozen=True)
class Run:
    """A run of a training, on disk at ``path``."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        """run.json: how it was started, versions, device, status, time."""
        return RunFolder(self.path).read_record()

    @property
    def best(self) -> Path:
        """The file of the best model."""
        return RunFolder(self.path).best

    @property
    def metrics(self) -> dict[str, float]:
        """The best model's metrics on the validation split."""
        return read_card(self.best).metrics.get("val", {})

    def events(self) -> list[dict[str, Any]]:
        """The events of the training, as in metrics.jsonl: settings, losses, metrics of epochs."""
        return read_events(RunFolder(self.path).metrics)

    def load(self, *, device: str = "auto") -> Model:
        """Open the best model. Raises: DlcliError."""
        return load(self.best, device=device)

    @python_words()
    def resume(self, *, force: bool = False, quiet: bool = True, **settings: Any) -> Run:
        """Train on from the last state, with other settings such as ``epochs=20``: see `train`.

        Raises: DlcliError, UsageError as ``--resume``.
        """
        given = Settings(TrainConfig, flags=_nested(settings))
        grant_reach(given)
        with given.granting(trust=False):
            resume_run(RunFolder(self.path), given, Screen(quiet, result=False), force=force)
        return self


@python_words()
def train(
    config: str | PathLike[str] | Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    runs_dir: str | PathLike[str] = DEFAULT_ROOT,
    quiet: bool = True,
    trust: bool = False,
    **settings: Any,
) -> Run:
    """Train a model; returns the run, whose folder is that of `dlcli train`.

    Args:
        config: a YAML file, a run whose settings are repeated, or nested settings
            (``{"optim": {"lr": 1e-3}}``).
        name: of the run; by default model and data.
        runs_dir: the folder of the runs.
        quiet: show warnings only, no progress.
        trust: run code that a file alone names.
        settings: as the options of `dlcli train`, with underscores (``batch_size=64``), or groups of
            settings (``optim={"lr": 1e-3}``); they beat those of ``config``.

    Raises: UsageError for settings, DlcliError for data and all that can go wrong; Interrupted on
    Ctrl-C, with the state saved: `Run.resume` trains on.
    """
    file: dict[str, Any] = {}
    values: dict[str, Any] = {}
    file_name = ""
    if isinstance(config, Mapping):
        values = dict(config)
    elif config is not None:
        path = Path(config)
        path = RunFolder(path).config if RunFolder(path).record.is_file() else path
        file, file_name = migrate(TrainConfig, load_yaml(path)), str(path)
    given = Settings(TrainConfig, file=file, flags=merge(values, _nested(settings)), file_name=file_name)
    grant_reach(given)
    with given.granting(trust=trust):
        folder = begin_run(given, name, Path(runs_dir), Screen(quiet, result=False))
    return Run(folder.path)


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings of keywords: names of options, or groups. Raises: UsageError for others."""
    keys = _keys_by_option()
    parts: list[dict[str, Any]] = []
    for name, value in settings.items():
        if name in TrainConfig.model_fields and isinstance(value, Mapping):
            parts.append({name: dict(value)})
        elif name in keys:
            parts.append(nested(keys[name], value))
        else:
            other = key_for(name, keys.values())
            known = dict.fromkeys([*keys, *TrainConfig.model_fields])
            option = next((k for k, key in keys.items() if key == other), None)
            hint = nearest(name, known) if option is None else f"did you mean {option!r}?"
            raise UsageError(f"train has no setting {name!r}", hint=hint)
    return merge(*parts)


def _keys_by_option() -> dict[str, str]:
    """Dotted key by the name of its option with underscores: "batch_size" is fit.batch_size."""
    keys = {}
    for key, field in fields_of(TrainConfig).items():
        for flag in field.json_schema_extra["flags"][:1]:
            keys[flag.partition("/")[0].removeprefix("--").replace("-", "_")] = key
    return keys
