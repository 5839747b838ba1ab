"""Settings as a YAML file for people: each with its help as a comment, and its schema for editors."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from dlcli.settings import fields_of
from dlcli.wording import printable

SCHEMA_FILE = "dlcli.schema.json"  # the first line of a settings file names it
_WIDTH = 100
_OWN_WORDS = ("flags", "advanced", "applies_to", "on_resume")  # of `dlcli.settings.setting`


def commented_yaml(config: BaseModel, origins: Mapping[str, str], heading: Iterable[str] = ()) -> str:
    """Return settings as YAML that `dlcli.settings.validate` reads back to an equal object.

    Settings with a default value stand as comments, unless ``--help`` lists them; others have their
    origin after the value. ``heading`` are lines of a comment at the top.
    """
    values = config.model_dump(mode="json")
    lines = [f"# yaml-language-server: $schema={SCHEMA_FILE}"]
    lines += [f"# {printable(line)}".rstrip() for line in heading]
    groups = {name: type(getattr(config, name)) for name in type(config).model_fields}
    for group, kind in groups.items():
        active: list[str] = []
        others: list[str] = []
        for name, setting in fields_of(kind).items():
            origin = origins[f"{group}.{name}"]
            flags = setting.json_schema_extra["flags"]
            shown = origin != "default" or (flags and not setting.json_schema_extra["advanced"])
            note = f"  # {printable(origin)}" if origin != "default" else ""
            entry = [*_comment(setting.description), f"{_entry(name, values[group][name])}{note}"]
            if shown:
                active += ["", *entry]
            else:
                others += ["", *entry[:-1], f"#{entry[-1]}"]
        title = (kind.__doc__ or "").splitlines()[0].rstrip(".")
        lines += ["", f"# {title}", f"{group}:" if active else f"{group}: {{}}"]
        lines += [f"  {line}".rstrip() for line in (*active[1:], *others)]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 4, break_on_hyphens=False)]


def _entry(name: str, value: Any) -> str:
    """Return ``name: value`` on one line, lists and mappings in brackets."""
    text = ""
    for style in (None, '"'):  # in double quotes a line break is an escape
        text = yaml.safe_dump(
            [{name: value}],
            default_flow_style=True,
            default_style=style,
            allow_unicode=True,
            width=float("inf"),
            sort_keys=False,
        ).strip()[2:-2]
        if "\n" not in text:
            break
    return text


def json_schema(config: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema (2020-12) of settings files."""
    schema = config.model_json_schema()
    for group in (schema, *schema.get("$defs", {}).values()):
        for field in group["properties"].values():
            for word in _OWN_WORDS:
                field.pop(word, None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
