"""The keyword arguments of a function of the user's own code, checked against its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dlcli.errors import UsageError, nearest

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a function or class; None for some that are written in C."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def takes(function: Callable[..., Any], name: str) -> bool:
    """Return whether a parameter of that name is declared."""
    signature = signature_of(function)
    return signature is not None and name in signature.parameters


def is_required(function: Callable[..., Any], name: str) -> bool:
    """Return whether a parameter of that name is declared without a default."""
    signature = signature_of(function)
    if signature is None or name not in signature.parameters:
        return False
    return signature.parameters[name].default is inspect.Parameter.empty


def taken_by(
    function: Callable[..., Any], given: Mapping[str, Any], passed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return those of the keyword arguments that a function takes, which share a setting with others'.

    ``passed`` names the positional arguments that dlcli passes.
    """
    names = argument_names(function, given, passed)
    return {name: value for name, value in given.items() if name in names}


def argument_names(
    function: Callable[..., Any], given: Mapping[str, Any], passed: tuple[str, ...] = ()
) -> set[str]:
    """Return the names that a function declares, and all that are given where it takes any."""
    signature = signature_of(function)
    if signature is None:
        return set(given)
    parameters = list(signature.parameters.values())
    names = {p.name for p in parameters[len(passed) :] if p.kind in _NAMED}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return names | set(given) if anything else names


def check_arguments(
    label: str,
    function: Callable[..., Any],
    key: str,
    given: Mapping[str, Any],
    passed: tuple[str, ...] = (),
) -> None:
    """Refuse keyword arguments that a function does not take, and a call that lacks some.

    Args:
        label: what messages call the function.
        key: the setting that holds the arguments, such as "loss.args".
        given: the keyword arguments.
        passed: names for the positional arguments that dlcli passes.

    Raises: UsageError.
    """
    signature = signature_of(function)
    if signature is None:
        return
    parameters = list(signature.parameters.values())
    own = [p.name for p in parameters[len(passed) :] if p.kind in _NAMED]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in given:
            if name not in own:
                hint = nearest(name, own) if own else f"{label} has no arguments of its own"
                raise UsageError(f"unknown setting '{key}.{name}'", hint=hint)
    try:
        signature.bind(*passed, **given)
    except TypeError as exc:
        raise UsageError(
            f"{label} is called with ({', '.join((*passed, f'**{key}'))}): {exc}",
            hint=f"--set {key}.NAME=VALUE gives an argument",
        ) from exc
