"""Settings: declared once as fields, merged from layers, validated with errors that name the key.

Layers, weakest first: the defaults, the model's recipe, ``--config FILE``, ``--set key=value``, flags
given on the command line. Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from dlcli.errors import UsageError, nearest
from dlcli.files import user_path
from dlcli.registry import declared_names
from dlcli.synonyms import key_for
from dlcli.trust import full_name, names_code

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def setting(
    default: Any,
    help: str,
    *flags: str,
    advanced: bool = False,
    applies_to: Mapping[str, tuple[str, ...]] | None = None,
    on_resume: Literal["allowed", "forced"] | None = None,
    **bounds: Any,
) -> Any:
    """Declare a field with its help; with ``flags`` it is also a command-line option.

    Args:
        advanced: list the option in ``--help-all`` only.
        applies_to: the values of other fields of the group that the setting has an effect for, such as
            ``{"method": ("static", "qat")}``; see `check_applies`.
        on_resume: whether a resumed run may have another value: "allowed", where it changes no
            step's samples or weights, or "forced", with ``--force`` only. By default no setting of
            ``model`` and ``data`` may change, and all others are forced.
        bounds: of the value, as in `pydantic.Field`.
    """
    extra: dict[str, Any] = {
        "flags": list(flags),
        "advanced": advanced,
        "applies_to": dict(applies_to or {}),
        "on_resume": on_resume,
    }
    return Field(default, description=help, json_schema_extra=extra, **bounds)


def parsed_by(parse: Callable[[str], object]) -> AfterValidator:
    """Return a validator for a setting of text with a syntax of its own, or None.

    ``parse`` raises UsageError for other text: a mistake is an error where settings are read, which is
    before torch is imported. The setting stays the text.
    """

    def check(text: str | None) -> str | None:
        if text is not None:
            parse(text)
        return text

    return AfterValidator(check)


# A setting that holds a path, or a name where it may be either.
PathText = Annotated[str | None, AfterValidator(lambda text: None if text is None else user_path(text))]


def option_name(config: type[BaseModel], key: str) -> str:
    """Return what users call a setting: its long flag, else its dotted key."""
    return typed_flag(config, key, None)


def typed_flag(config: type[BaseModel], key: str, value: Any) -> str:
    """Return the flag that sets a value; for a boolean, the matching one of its two flags."""
    flags: list[str] = fields_of(config)[key].json_schema_extra["flags"]
    yes, _, no = flags[0].partition("/") if flags else (key, "", "")
    return no if value is False and no else yes


def check_applies(config: BaseModel, given: Mapping[str, Any] | None = None) -> None:
    """Refuse settings that have no effect with the values of the others in their group.

    ``given`` holds what the user typed, nested as in YAML; by default, whatever differs from its default
    counts. A value of "auto" may turn out to be any other. Raises: UsageError.
    """
    values = flat(config)
    for key, field in fields_of(type(config)).items():
        group, dot, _ = key.rpartition(".")
        typed = values[key] != _default(field) if given is None else is_set(given, key)
        for other, allowed in field.json_schema_extra["applies_to"].items() if typed else ():
            chosen = values[f"{group}{dot}{other}"]
            if chosen not in (*allowed, "auto"):
                flag = option_name(type(config), f"{group}{dot}{other}")
                name = option_name(type(config), key)
                raise UsageError(
                    f"{name} is for {flag} {' and '.join(allowed)}, not {chosen}",
                    hint="leave it out: it has no effect here",
                )


def _default(field: Any) -> Any:
    """Return the default of a field, as `flat` gives it."""
    return list(field.default) if isinstance(field.default, tuple) else field.default


def is_set(values: Mapping[str, Any], key: str) -> bool:
    """Return whether nested values have a dotted key."""
    first, _, rest = key.partition(".")
    if first not in values or not rest:
        return first in values
    return isinstance(values[first], Mapping) and is_set(values[first], rest)


@dataclass(frozen=True)
class RegisteredName:
    """The type of a setting that names a registered function: ``Annotated[str, RegisteredName(...)]``.

    The names come from the sources (`dlcli.registry.declared_names`), so that no module is imported to
    validate one or to list them in ``--help``. ``others`` are choices that are not registered; without a
    ``package`` they are all. With a
    ``group`` of entry points the setting also takes ``file.py:NAME``, whose path becomes absolute, and
    what installed packages offer: see `dlcli.user_code`.
    """

    kind: str  # the word used in messages
    package: str = ""
    decorator: str = ""
    others: tuple[str, ...] = ()
    group: str | None = None

    def names(self) -> tuple[str, ...]:
        """Return all names that the setting can have."""
        registered = declared_names(self.package, self.decorator) if self.package else ()
        return (*self.others, *registered)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        known = {"enum": list(self.names())}
        other = {"pattern": ":"} if self.group is not None else None  # file.py:NAME, or a package's
        text = handler(core)
        return {**text, "anyOf": [known, other]} if other else {**text, **known}

    def _known(self, name: str) -> str:
        if name in self.names():
            return name
        if self.group is not None and names_code(name, self.group):
            return full_name(name)
        is_file = self.group is not None and name.endswith(".py")
        hint = f"{name}:NAME is what it calls NAME" if is_file else nearest(name, self.names())
        raise PydanticCustomError("unknown_name", "unknown {kind}", {"kind": self.kind, "hint": hint})


def fields_of(config: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return the pydantic field of every setting by dotted key, those of groups included."""
    fields: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            fields |= fields_of(field.annotation, f"{key}.")
        else:
            fields[key] = field
    return fields


def flat(config: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return the value of every setting by dotted key, JSON-ready."""
    values: dict[str, Any] = {}
    for name, value in config:
        if isinstance(value, BaseModel):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return values


def with_origins(
    requested: BaseModel, resolved: BaseModel, origins: Mapping[str, str]
) -> dict[str, tuple[Any, str]]:
    """Return each resolved setting's value and origin, by dotted key.

    "auto" follows the origin of a value that was searched because "auto" was requested.
    """
    before = flat(requested)
    return {
        key: (value, f"{origins[key]} auto" if before[key] == "auto" != value else origins[key])
        for key, value in flat(resolved).items()
    }


def texts(value: Any) -> Iterator[str]:
    """Yield all texts among the values of nested settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested settings; a later layer wins, key by key. Raises: UsageError."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
                out[key] = merge(out[key], value)
            elif key in out and isinstance(value, Mapping) != isinstance(out[key], Mapping):
                scalar = out[key] if isinstance(value, Mapping) else value
                raise UsageError(f"{key} = {scalar!r}: {key} is a group of settings, not a value")
            else:
                out[key] = value
    return out


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return nested settings of a dotted key: ``{"optim": {"lr": 1}}`` for ``("optim.lr", 1)``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]  # the loop runs at least once


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file. Raises: UsageError if it is missing, not YAML or not a mapping."""
    try:
        loaded = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(
            f"cannot read --config {path}: {reason}",
            hint="give a YAML file, such as a run's config.yaml",
        ) from exc
    except ValueError as exc:
        raise UsageError(f"--config {path} is not YAML: {' '.join(str(exc).split())}") from exc
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"--config {path} must map setting names to values")
    return loaded


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document. Raises: ValueError for whatever PyYAML cannot read."""
    import yaml

    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except AttributeError as exc:  # PyYAML 6: "!!timestamp x"
        raise ValueError("a value does not have the form of its tag") from exc
    except yaml.YAMLError as exc:
        raise ValueError(str(exc)) from exc


def parse_set(item: str) -> dict[str, Any]:
    """Parse ``optim.lr=3e-4`` into a layer. Raises: UsageError when there is no ``=``."""
    key, eq, text = item.partition("=")
    if not eq or not key.strip():
        raise UsageError(f"--set {item!r} is not of the form key=value", hint="--set optim.lr=3e-4")
    try:
        return nested(key.strip(), parse_yaml(text) if text else "")
    except ValueError as exc:
        raise UsageError(f"--set {item!r}: the value is not YAML") from exc


def validate(config: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Return the validated, frozen settings. Raises: UsageError naming the key and the value."""
    try:
        return config.model_validate(values)
    except ValidationError as exc:
        raise _usage_error(config, exc) from exc


def dump_yaml(config: BaseModel) -> str:
    """Return the settings as YAML that `validate` reads back to an equal object."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _usage_error(config: type[BaseModel], exc: ValidationError) -> UsageError:
    known = fields_of(config)
    first = exc.errors()[0]
    key = _key(first["loc"], known)
    if first["type"] == "extra_forbidden":
        leaf = key.rsplit(".", 1)[-1]
        same_leaf = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
        meant = same_leaf[0] if same_leaf else key_for(leaf, known)
        hint = f"did you mean {meant!r}?" if meant else nearest(key, known)
        return UsageError(f"unknown setting {key!r}", hint=hint)
    field = known.get(key)
    flags = field.json_schema_extra["flags"] if field is not None else []
    where = f"{key} ({flags[0]})" if flags else key
    reasons = [error["msg"].lower() for error in exc.errors() if _key(error["loc"], known) == key]
    return UsageError(
        f"{where} = {first['input']!r}: {'; or '.join(reasons)}", hint=first.get("ctx", {}).get("hint")
    )


def _key(loc: tuple[int | str, ...], known: Mapping[str, Any]) -> str:
    """Return the dotted key of an error, without the member that pydantic adds for a union."""
    parent = ".".join(map(str, loc[:-1]))
    return parent if parent in known and isinstance(loc[-1], str) else ".".join(map(str, loc))
