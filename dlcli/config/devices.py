"""Names of devices, and numbers of devices and machines, as text."""

import re

from dlcli.errors import UsageError


def parse_device(name: str) -> tuple[str, int]:
    """Return the kind and the index in "cuda:1"; the index is 0 where none is given.

    Raises: UsageError for a name of no kind of device.
    """
    match = re.fullmatch(r"(auto|cpu|cuda|xpu|mps|tensorrt)(?::(\d+))?", name)
    if match is None or name.startswith("auto:"):
        raise UsageError(
            f"--device {name!r} is none of auto, cpu, cuda, cuda:N, xpu, xpu:N, mps, tensorrt"
        )
    return match[1], int(match[2] or 0)


def parse_devices(text: str) -> tuple[int, ...]:
    """Return the indices in "0,1"; empty for a number of devices or "auto". Raises: UsageError."""
    if not re.fullmatch(r"auto|[1-9][0-9]*|[0-9]+(,[0-9]+)+|[0-9]+,", text.strip()):
        raise UsageError(
            f"--devices {text.strip()!r} is neither a number, a list of devices nor auto",
            hint="--devices 2 for two of them, --devices 0,1 for those two, --devices auto for all",
        )
    return tuple(int(part) for part in text.split(",") if part.strip()) if "," in text else ()


def parse_machines(text: str) -> tuple[int, int]:
    """Return the minimum and the maximum number of machines in "2" or "1:4". Raises: UsageError."""
    match = re.fullmatch(r"([1-9][0-9]*)(?::([1-9][0-9]*))?", text.strip())
    minimum, maximum = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if minimum > maximum:
        raise UsageError(f"--nnodes {text!r} is neither a number such as 2 nor a range such as 1:4")
    return minimum, maximum
