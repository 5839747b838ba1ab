"""The settings of a registered function (a loss, a schedule) are its keyword-only parameters.

A parameter with the name of a setting of the group (``loss.label_smoothing``) gets that setting's value.
Any other belongs to the function alone: ``--set loss.args.NAME=value`` sets it, checked against its
annotation, and it keeps its default otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError, create_model

from dlcli.errors import UsageError, nearest
from dlcli.task import Frozen

Function = Callable[..., Any]


def keywords(function: Function, config: BaseModel) -> dict[str, Any]:
    """The keyword arguments of ``function`` that the settings of a group and its ``args`` mean.

    Raises: UsageError for a value of ``args`` that does not fit the parameter's annotation.
    """
    names = keyword_names(function)
    shared = {name: getattr(config, name) for name in names if name in type(config).model_fields}
    own = _arguments(function, type(config))
    if not own.model_fields:
        return shared
    values = {name: value for name, value in _args(config).items() if name in own.model_fields}
    return {**shared, **dict(own.model_validate(values))}


@cache
def keyword_names(function: Function) -> tuple[str, ...]:
    """The keyword-only parameters of a function, in their order."""
    return tuple(p.name for p in _parameters(function))


def check_args(
    key: str, config: BaseModel, functions: Iterable[Function], also: Collection[str] = ()
) -> None:
    """Refuse ``args`` of a group that none of the functions takes, and values of another type.

    ``key`` is the dotted key of the arguments, such as "loss.args"; ``also`` are names that the user's
    own code takes. Raises: UsageError naming the key.
    """
    models = [_arguments(function, type(config)) for function in functions]
    known = {name for model in models for name in model.model_fields} | set(also)
    for name in _args(config):
        if name not in known:
            hint = nearest(name, known) if known else "it has no arguments of its own"
            raise UsageError(f"unknown setting '{key}.{name}'", hint=hint)
    for model in models:
        values = {name: value for name, value in _args(config).items() if name in model.model_fields}
        try:
            model.model_validate(values)
        except ValidationError as exc:
            error = exc.errors()[0]
            name = str(error["loc"][0])
            raise UsageError(f"{key}.{name} = {values.get(name)!r}: {error['msg'].lower()}") from exc


def check_ignored(
    group: str, choice: str, chosen: str, functions: Mapping[str, Iterable[Function]], config: BaseModel
) -> None:
    """Refuse settings of a group that only functions other than the chosen one take.

    ``functions`` maps each registered name that the setting ``choice`` can have to what it stands for;
    settings at their default pass. Raises: UsageError naming the setting and what it belongs to.
    """
    default = type(config)()
    for name in type(config).model_fields:
        owners = [n for n, uses in functions.items() if any(name in keyword_names(f) for f in uses)]
        value = getattr(config, name)
        if owners and chosen not in owners and value != getattr(default, name):
            raise UsageError(
                f"{group}.{name} = {value} means nothing to {group}.{choice} = {chosen}",
                hint=f"it belongs to {', '.join(owners)}"
                + ("" if chosen in functions else f"; your own code takes {group}.args.{name}"),
            )


def _args(config: BaseModel) -> Mapping[str, Any]:
    args: Mapping[str, Any] = getattr(config, "args", {})
    return args


@cache
def _parameters(function: Function) -> tuple[inspect.Parameter, ...]:
    # Other annotations are not evaluated: they may name what is imported for type checkers alone.
    names = inspect.unwrap(function).__globals__
    return tuple(
        p.replace(annotation=eval(p.annotation, names)) if isinstance(p.annotation, str) else p
        for p in inspect.signature(function).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    )


@cache
def _arguments(function: Function, group: type[BaseModel]) -> type[BaseModel]:
    """The parameters that are no settings of the group, as a model that validates them."""
    fields: dict[str, Any] = {
        p.name: (
            Any if p.annotation is inspect.Parameter.empty else p.annotation,
            ... if p.default is inspect.Parameter.empty else p.default,
        )
        for p in _parameters(function)
        if p.name not in group.model_fields
    }
    return create_model("Arguments", __base__=Frozen, **fields)
