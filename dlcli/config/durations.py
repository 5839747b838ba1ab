"""Durations and intervals of a run, as text: ``1h30min``; ``200``, ``5min`` and ``1ep``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dlcli.errors import UsageError


@dataclass(frozen=True)
class CheckpointEvery:
    """The intervals at which the state is saved, in steps, minutes and epochs; None is never."""

    steps: int | None = None
    minutes: float | None = None
    epochs: int | None = None

    @classmethod
    def parse(cls, text: str) -> CheckpointEvery:
        """ "200", "5min", "1ep", or several with commas. Raises: UsageError."""
        intervals: dict[str, Any] = {}
        for part in text.split(","):
            match = re.fullmatch(r"(\d+(?:\.\d+)?)(min|ep)?", part.strip())
            if match is None or float(match[1]) <= 0 or (match[2] != "min" and "." in match[1]):
                raise UsageError(
                    f"--checkpoint-every {text!r}: {part.strip()!r} is not N, Nmin or Nep",
                    hint="200 is steps, 5min minutes, 1ep epochs; join them with commas",
                )
            if match[2] == "min":
                intervals["minutes"] = float(match[1])
            else:
                intervals["epochs" if match[2] else "steps"] = int(match[1])
        return cls(**intervals)


def parse_time(text: str | None) -> float | None:
    """ "90s", "30min", "2h" or "1h30min" in seconds. Raises: UsageError."""
    if text is None:
        return None
    match = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?", text.strip()
    )
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    if not any(parts):
        raise UsageError(f"--max-time {text!r} is not a duration", hint="90s, 30min, 2h or 1h30min")
    return sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=True))
