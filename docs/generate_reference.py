"""Write docs/reference/ from settings and help; --check: exit with 1 where it is outdated."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dlcli import cli, config
from dlcli.config.commented import json_schema
from dlcli.settings import fields_of

FOLDER = Path(__file__).parent / "reference"
SETTINGS = {
    "train": "TrainConfig",
    "eval": "EvalConfig",
    "predict": "PredictConfig",
    "export": "ExportSettings",
    "quantize": "QuantizeSettings",
    "prune": "PruneSettings",
    "ship": "ShipSettings",
    "benchmark": "BenchConfig",
    "tune": "TuneConfig",
    "serve": "ServeConfig",
}
GENERATED = "<!-- written by docs/generate_reference.py -->"


def pages() -> dict[str, str]:
    """Return name to text of every page."""
    return {
        "commands.md": "\n".join([GENERATED, "", "# Commands", "", *_commands()]),
        "settings.md": "\n".join([GENERATED, "", "# Settings", "", *_settings()]),
    }


def _commands() -> Iterator[str]:
    yield "Every option of every command; `dlcli COMMAND --help-all` shows the same."
    for name in cli.summaries():
        function = importlib.import_module(f"dlcli.commands.{name}").command
        text, examples = cli.split_help(inspect.getdoc(function) or "")
        yield from ("", f"## dlcli {name}", "", _escaped(text), "")
        yield from ("```console", *(f"$ {line}" for line in examples), "```")
        loaded = cli._load(name)
        for kind, panel, rows in _panels(loaded.params):
            yield from ("", f"**{_escaped(panel)}**", "", f"| {kind} | meaning | default |")
            yield from ("| --- | --- | --- |", *rows)
    yield ""


def _panels(parameters: list[Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield kind, title and rows of each table of arguments and options, in the order of the help."""
    rows: dict[tuple[str, str], list[str]] = {}
    for one in parameters:
        is_option = one.param_type_name == "option"
        kind = "option" if is_option else "argument"
        panel = getattr(one, "rich_help_panel", None) or f"{kind.capitalize()}s"
        flags = [*one.opts, *one.secondary_opts] if is_option else [one.metavar or one.name.upper()]
        default = one.default if isinstance(one.default, str | int | float | Path) else None
        shown = "" if default in (None, False, "") else f"`{default}`"
        names = " ".join(f"`{flag}`" for flag in flags)
        rows.setdefault((kind, panel), []).append(f"| {names} | {_escaped(one.help or '')} | {shown} |")
    for (kind, panel), lines in rows.items():
        yield kind, panel, lines


def _settings() -> Iterator[str]:
    yield (
        "Keys of `--set KEY=VALUE` and of YAML files for `--config`. A key of `--set` is stronger than\n"
        "one of the file, and an option that is typed stronger than both. `dlcli init` writes the file\n"
        "of a run with comments, `dlcli init --schema` the JSON schema of `train`'s settings."
    )
    for command, name in SETTINGS.items():
        kind = getattr(config, name)
        schema = json_schema(kind)
        yield from ("", f"## Settings of {command}", "", "| key | option | values | default | meaning |")
        yield "| --- | --- | --- | --- | --- |"
        for key, field in fields_of(kind).items():
            flags = field.json_schema_extra["flags"]
            option = f"`{flags[0].split('/')[0]}`" if flags else ""
            own = _property(schema, key)
            default = json.dumps(own.get("default"), ensure_ascii=False)
            shown = "" if default == "null" else f"`{default}`"
            meaning = _escaped(field.description or "")
            yield f"| `{key}` | {option} | {_escaped(_values(own))} | {shown} | {meaning} |"
    yield ""


def _property(schema: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the schema of a setting by its dotted key."""
    node: Any = schema
    for part in key.split("."):
        node = node["properties"][part]
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node  # type: ignore[no-any-return]


def _values(schema: Mapping[str, Any]) -> str:
    """Return the values that a schema admits, in words."""
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(
            dict.fromkeys(_values(part) for part in schema["anyOf"] if part.get("type") != "null")
        )
    if schema.get("pattern") == ":":
        return "file.py:NAME"
    words = {"number": "number", "integer": "whole number", "string": "text", "boolean": "true, false"}
    kind = words.get(
        str(schema.get("type")), {"array": "list", "object": "mapping"}.get(str(schema.get("type")), "")
    )
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = ", ".join(f"{sign} {schema[word]}" for word, sign in signs.items() if word in schema)
    return f"{kind} {bounds}".strip()


def _escaped(text: str) -> str:
    for sign, escape in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*")):
        text = text.replace(sign, escape)
    return text


def main() -> int:
    """Write the pages, or with --check compare them."""
    outdated = [
        name
        for name, text in pages().items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        for name in outdated:
            sys.stderr.write(f"{FOLDER / name} is outdated: python docs/generate_reference.py\n")
        return 1 if outdated else 0
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
