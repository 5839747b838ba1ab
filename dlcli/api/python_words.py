"""Errors of the commands in the words of a Python program: ``epochs=5``, not ``--epochs 5``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from dlcli.config import EvalConfig, TrainConfig
from dlcli.errors import DlcliError
from dlcli.settings import fields_of

# An option with a value that is a number or a placeholder, such as FILE; other words may be those of
# the sentence.
_OPTION = re.compile(r"--(no-)?([a-z][a-z0-9-]*)(?: ([A-Z][A-Z_]*\b|\d[\d.e+-]*\b(?!\.\w)))?")
_SET = re.compile(r"--set ([a-z_]+)\.([\w.]+)=([^\s;,]+)")
_COMMAND = re.compile(r"\bdlcli [a-z]+ ")  # a command to type stays one
_FLAGS = frozenset({"trust", "force"})  # arguments of this package, and no settings


@contextmanager
def python_words() -> Iterator[None]:
    """Context in which errors name arguments in place of options, and a traceback shows their hint."""
    try:
        yield
    except DlcliError as exc:
        exc.message = in_python(exc.message)
        exc.args = (exc.message,)
        if exc.hint is not None:
            exc.hint = in_python(exc.hint)
            note = f"hint: {exc.hint}"
            if note not in getattr(exc, "__notes__", ()):
                exc.add_note(note)
        raise


def in_python(text: str) -> str:
    """Return a message with arguments of Python in place of options."""
    if _COMMAND.search(text):
        return text
    boolean = _booleans()

    def argument(match: re.Match[str]) -> str:
        no, option, value = match.groups()
        name = option.replace("-", "_")
        if name not in boolean:
            return match[0]
        if boolean[name]:
            return f"{name}={not no}" + (f" {value}" if value else "")
        return f"{name}={value}" if value else name

    return _OPTION.sub(argument, _SET.sub(_keyword, text))


def _keyword(match: re.Match[str]) -> str:
    """Return ``optim={"args": {"eps": 1e-6}}`` for ``--set optim.args.eps=1e-6``."""
    group, key, value = match.groups()
    for part in reversed(key.split(".")):
        value = f'{{"{part}": {value}}}'
    return f"{group}={value}"


def _booleans() -> dict[str, bool]:
    """Whether an argument is True or False, by the name of each that this package takes."""
    names = dict.fromkeys(_FLAGS, True)
    for config in (TrainConfig, EvalConfig):
        for field in fields_of(config).values():
            for flag in field.json_schema_extra["flags"][:1]:
                name = flag.partition("/")[0].removeprefix("--").replace("-", "_")
                names[name] = "/" in flag or field.annotation is bool
    return names
