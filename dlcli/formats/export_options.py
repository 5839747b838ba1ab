"""Which export settings a format honours, and which formats a name means."""

from __future__ import annotations

from collections.abc import Iterable

from dlcli.config import ExportConfig
from dlcli.config.onnx_versions import check_runtime
from dlcli.errors import UsageError
from dlcli.formats.base import FORMATS, Format
from dlcli.settings import typed_flag

# Names that mean several formats at once.
GROUPS: dict[str, tuple[str, ...]] = {"state-dict": ("pth", "plain-safetensors")}


def unsupported_option(entry: Format, config: ExportConfig) -> str | None:
    """Return the first setting that other formats support and this one does not, or None."""
    optional = {name for _, other in FORMATS.entries() for name in other.options}
    for name, field in ExportConfig.model_fields.items():
        if name in optional - entry.options and getattr(config, name) != field.default:
            return name
    return None


def check_options(entry: Format, config: ExportConfig) -> None:
    """Refuse settings that a format does not support. Raises: UsageError."""
    name = unsupported_option(entry, config)
    if name is not None:
        able = ", ".join(n for n, other in FORMATS.entries() if name in other.options)
        flag = typed_flag(ExportConfig, name, getattr(config, name))
        raise UsageError(
            f"{flag} has no effect on {entry.name} files",
            hint=f"it is for {able}: leave it out here",
        )
    check_runtime(config)
    if entry.static:
        return  # always of one size, so a size needs no --static
    for flag, size in (("--batch-size", config.batch_size), ("export.length", config.length)):
        if size is not None and config.dynamic:
            raise UsageError(f"{flag} is the size of a static {entry.name} file", hint="add --static")


def formats_named(names: Iterable[str]) -> list[Format]:
    """The formats of these names that can be written, groups in full, each once. Raises: UsageError."""
    formats: dict[str, Format] = {}
    for name in names:
        for member in GROUPS.get(name, (name,)):
            entry = FORMATS.find(member)
            if entry is None or entry.write is None:
                able = [n for n, other in FORMATS.entries() if other.write is not None]
                raise UsageError(
                    f"{member} is not an export format", hint="there is " + ", ".join([*able, *GROUPS])
                )
            formats[member] = entry
    return list(formats.values())
