"""Command-line options from settings, so that each is declared once, in `dlcli.config`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel

from dlcli.config.migrate import migrate
from dlcli.errors import UsageError
from dlcli.runs.folder import DEFAULT_ROOT, FOLDS, RunFolder
from dlcli.settings import (
    RegisteredName,
    fields_of,
    load_yaml,
    merge,
    nested,
    parse_set,
    texts,
    validate,
)
from dlcli.trust import ALL, allowing

ConfigT = TypeVar("ConfigT", bound=BaseModel)
_NOTHING = object()

Artifact = Annotated[
    str | None,
    typer.Argument(help="A model file, a run folder or a run's name (default: the newest run)."),
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder of the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Load files that can execute code, from a trusted source: .pt2, TorchScript, file.py.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]

LONGEST_METAVAR = 16  # characters; longer lists of choices do not fit 80 columns


def _show_all(ctx: typer.Context, requested: bool) -> None:
    if requested:
        for parameter in ctx.command.params:
            parameter.hidden = False  # type: ignore[attr-defined]
        typer.echo(ctx.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show all options and exit."),
]


@dataclass(frozen=True)
class Settings(Generic[ConfigT]):
    """The user's settings, in layers; `resolve` adds defaults and the recipe."""

    config: type[ConfigT]
    file: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    file_name: str = ""  # of --config

    @property
    def overrides(self) -> dict[str, Any]:
        """Return the user's layers, merged."""
        return merge(self.file, self.sets, self.flags)

    def resolve(self, recipe: dict[str, Any] | None = None) -> ConfigT:
        """Defaults < recipe < file < --set < flags, validated. Raises: UsageError."""
        return validate(self.config, merge(recipe or {}, self.overrides))

    @contextmanager
    def granting(self, *, trust: bool) -> Iterator[None]:
        """Context in which code that was typed as ``file.py:NAME`` may run, or any with ``trust``.

        Settings of ``--config`` are those of a file, which may be another person's.
        """
        with allowing(*texts(merge(self.sets, self.flags)), ALL if trust else None):
            yield

    def origins(self, recipe: dict[str, Any]) -> dict[str, str]:
        """Return where each setting's value comes from, by dotted key.

        The flag that was typed (its long name), "--set", "--config FILE", "recipe" or "default".
        """
        file = f"--config {self.file_name}"
        origins = {}
        for key, info in fields_of(self.config).items():
            flag = (info.json_schema_extra["flags"] or ["set by dlcli"])[0]
            yes, _, no = flag.partition("/")
            typed = no if _find(self.flags, key) is False else yes
            layers = ((typed, self.flags), ("--set", self.sets), (file, self.file), ("recipe", recipe))
            named = (name for name, layer in layers if _find(layer, key) is not _NOTHING)
            origins[key] = next(named, "default")
        return origins


def takes_config(
    config: type[ConfigT],
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    advanced: Collection[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: give the command every flagged field as an option, plus ``--config`` and ``--set``.

    With ``only``, of those fields alone, by dotted key, else of all but those ``without``. The command
    is called in `Settings.granting`, with ``settings: Settings[config]`` as its first argument. Raises:
    ValueError at import when two fields claim one flag.

    ``--help`` lists the options that are not advanced, or all of them where ``only`` selects some;
    ``--help-all`` lists every option. ``advanced`` are those of this command, besides the fields' own.
    """
    options = {
        name: option
        for name, option in _options(config, hide=only is None, advanced=advanced).items()
        if (only is None or option[1] in only) and option[1] not in without
    }

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        _refuse_duplicate_flags([*own, *(p for p, _ in options.values())])

        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            ctx: typer.Context = values.pop("ctx")
            file, sets = _settings_file(values.pop("config_file")), values.pop("set_items")
            values.pop("help_all", None)
            flags: dict[str, Any] = {}
            for name, (_, key) in options.items():
                value = values.pop(name)
                source = ctx.get_parameter_source(name)
                if source is not None and source.name == "COMMANDLINE":
                    flags = merge(flags, nested(key, value))
            settings = Settings(
                config,
                file=migrate(config, load_yaml(file)) if file else {},
                sets=merge(*(migrate(config, parse_set(item)) for item in sets or [])),
                flags=flags,
                file_name=str(file or ""),
            )
            with settings.granting(trust=bool(values.get("trust"))):
                command(settings, **values)

        extra = [
            _parameter("ctx", typer.Context),
            *own,
            *(parameter for parameter, _ in options.values()),
            _parameter(
                "config_file",
                Annotated[
                    Path | None,
                    typer.Option(
                        "--config",
                        help="Settings from a YAML file, or those of a run folder.",
                        rich_help_panel="Settings",
                    ),
                ],
                None,
            ),
            _parameter(
                "set_items",
                Annotated[
                    list[str] | None,
                    typer.Option(
                        "--set",
                        metavar="KEY=VALUE",
                        help="Any setting by its YAML key; may be repeated.",
                        rich_help_panel="Settings",
                    ),
                ],
                None,
            ),
        ]
        if any(_is_hidden(parameter) for parameter in extra):
            extra.append(_parameter("help_all", HelpAll, False))
        wrapper.__signature__ = inspect.Signature(extra)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in extra}
        return wrapper

    return decorate


def _settings_file(path: Path | None) -> Path | None:
    """Return the settings of a run, by its folder or name, and other paths as they are."""
    if path is None:
        return None
    folders = (RunFolder(path), *(() if path.exists() else (RunFolder(DEFAULT_ROOT / path),)))
    for folder in folders:
        if (folder.path / FOLDS).is_file():
            raise UsageError(
                f"--config {path} is a cross-validation: its runs have settings of their own",
                hint=f"name one, and which fold: --config {folder.path / 'fold-1'} --set data.fold=null "
                "for all of them",
            )
    return next((folder.config for folder in folders if folder.record.is_file()), path)


def _find(layer: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key in a layer, or `_NOTHING`."""
    value: Any = layer
    for part in key.split("."):
        value = value.get(part, _NOTHING) if isinstance(value, Mapping) else _NOTHING
    return value


def _options(
    config: type[BaseModel], *, hide: bool, advanced: Collection[str]
) -> dict[str, tuple[inspect.Parameter, str]]:
    """Return (option, dotted key) of each field with flags, by parameter; ``hide`` advanced ones."""
    options: dict[str, tuple[inspect.Parameter, str]] = {}
    panels = {
        name: f"{inspect.getdoc(sub.annotation)} ({name})"
        for name, sub in config.model_fields.items()
        if isinstance(sub.annotation, type) and issubclass(sub.annotation, BaseModel)
    }
    for key, info in fields_of(config).items():
        flags = info.json_schema_extra["flags"]
        if not flags:
            continue
        kind = _typed(info.annotation, info.metadata)
        registered = _registered_name(info.annotation, info.metadata)
        metavar, choices = _choices(kind, registered.names() if registered else ())
        option = typer.Option(
            *flags,
            help=f"{info.description}{choices}",
            metavar=metavar,
            hidden=hide and (info.json_schema_extra["advanced"] or key in advanced),
            show_default="(default:" not in (info.description or ""),
            rich_help_panel=panels.get(key.split(".")[0]) or inspect.getdoc(config),
        )
        name = key.replace(".", "_")
        options[name] = (_parameter(name, Annotated[kind, option], info.default), key)
    return options


def _choices(kind: Any, registered: Collection[str]) -> tuple[str | None, str]:
    """Return an option's metavar and a suffix of its help, for choices too long for the metavar.

    ``registered`` are the names that the setting can have; others of type text are code of the user's.
    """
    if kind == list[str]:
        return "NAME", ""
    literals = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    names = [str(name) for literal in literals for name in get_args(literal)]
    if registered and not literals:
        return "NAME", f" One of: {', '.join(registered)}; or file.py:NAME."
    if len("|".join(names)) <= LONGEST_METAVAR:
        return None, ""
    return "NAME", f" One of: {', '.join(names)}."


def _is_hidden(parameter: inspect.Parameter) -> bool:
    return any(
        getattr(meta, "hidden", False) for meta in getattr(parameter.annotation, "__metadata__", ())
    )


def _typed(annotation: Any, metadata: Collection[Any]) -> Any:
    """Return the type for typer: str for unions of numbers and words, which typer lacks.

    A registered name becomes a choice among the names, unless it may also be code of the user's.
    """
    kinds = get_args(annotation)
    if any(get_origin(kind) is dict for kind in kinds):
        return str | None  # a file of the mapping
    if kinds[-1:] == (...,):
        return list[str]
    registered = _registered_name(annotation, metadata)
    if registered is not None:
        choices = str if registered.group else Literal[registered.names()]
        return choices | None if type(None) in kinds else choices
    if any(get_origin(kind) is Literal for kind in kinds) and type(None) not in kinds:
        return str
    return annotation


def _registered_name(annotation: Any, metadata: Collection[Any]) -> RegisteredName | None:
    parts = (*metadata, *(m for kind in get_args(annotation) for m in get_args(kind)[1:]))
    return next((part for part in parts if isinstance(part, RegisteredName)), None)


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _refuse_duplicate_flags(parameters: list[inspect.Parameter]) -> None:
    seen: set[str] = {"--config", "--set", "--help"}
    for parameter in parameters:
        for meta in getattr(parameter.annotation, "__metadata__", ()):
            # Inside Annotated, typer keeps the first flag in the place of the default.
            flags = (getattr(meta, "default", None), *(getattr(meta, "param_decls", None) or ()))
            for flag in flags:
                for part in flag.split("/") if isinstance(flag, str) else ():
                    if part in seen:
                        raise ValueError(f"the flag {part} is declared twice")
                    seen.add(part)
