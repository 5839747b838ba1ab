"""Search spaces, as text next to a model's recipe or in ``--search``.

    optim.lr=1e-4..1e-2:log             floats, on a logarithmic scale
    optim.lr=0.1x..10x:log              the same, relative to the value without a search
    model.args.hidden=64..256:64        whole numbers in steps of 64: both ends and the value are whole
    optim.optimizer=adam|adamw|sgd      one of several values, each as in YAML

Several are joined with commas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.errors import UsageError
from dlcli.settings import parse_yaml

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})(?P<x>x?)\.\.(?P<high>{_NUMBER})(?P=x)(?::(?P<scale>.+))?")


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ``whole`` ones are integers."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def value(self, param: Any) -> Any:
        """Return the setting's value of a parameter."""
        return int(param) if self.whole else float(param)

    def param(self, value: Any) -> Any | None:
        """Return the parameter of a value; None where it is not in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            return None
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return self.value(value) if math.isclose(steps, round(steps), abs_tol=1e-9) else None

    def grid(self) -> list[Any] | None:
        """Return all values; None for a range without a step, which has no end of them."""
        step = self.step or (1.0 if self.whole and not self.log else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.value(self.low + i * step) for i in range(count)]

    def rank(self, param: float) -> int:
        """Return the index of a parameter in `grid`."""
        return round((param - self.low) / (self.step or 1.0))

    def ends(self) -> list[Any]:
        """Return the values that have to be allowed."""
        return [self.value(self.low), self.value(self.high)]


@dataclass(frozen=True)
class Choices:
    """One of several values; a parameter is the text of one, as in YAML."""

    texts: tuple[str, ...]

    def value(self, param: Any) -> Any:
        return _parse(param)

    def param(self, value: Any) -> Any | None:
        return next((text for text in self.texts if _parse(text) == _plain(value)), None)

    def grid(self) -> list[Any] | None:
        return list(self.texts)

    def rank(self, param: Any) -> int:
        return self.texts.index(param)

    def ends(self) -> list[Any]:
        return [_parse(text) for text in self.texts]


Domain = Range | Choices
Space = dict[str, Domain]


def parse_search(texts: Sequence[str]) -> dict[str, str]:
    """Return the text of each setting's domain by dotted key. Raises: UsageError."""
    entries: dict[str, str] = {}
    for text in texts:
        for part in re.split(r",\s*(?=[A-Za-z_][\w.-]*\s*=)", text):
            key, equals, domain = (piece.strip() for piece in part.partition("="))
            if not (key and equals and domain):
                raise UsageError(
                    f"--search {part.strip()!r} is not of the form SETTING=DOMAIN",
                    hint="--search 'optim.lr=1e-4..1e-2:log, optim.optimizer=adam|sgd'",
                )
            if key in entries:
                raise UsageError(f"--search: {key} is there twice")
            entries[key] = domain
    return entries


def make_space(domains: Mapping[str, str], defaults: Mapping[str, Any]) -> Space:
    """Parse the domains of settings, whose values without a search are ``defaults``.

    Raises: UsageError for an empty range, a step that does not fit, or a relative one of no number.
    """
    return {key: _domain(key, text, defaults.get(key)) for key, text in domains.items()}


def texts_of(space: Space) -> dict[str, str]:
    """Return a space as text that `make_space` reads back, without anything relative."""
    return {key: _text(domain) for key, domain in space.items()}


def _domain(key: str, text: str, default: Any) -> Domain:
    match = _RANGE.fullmatch(text.replace(" ", ""))
    if match is not None:
        return _range(key, text, match, default)
    if ".." in text:
        raise UsageError(
            f"--search {key}={text}: {text!r} is not a range",
            hint="LOW..HIGH, with :log for a logarithmic scale or :STEP; 0.1x..10x is relative",
        )
    texts = tuple(part.strip() for part in text.split("|"))
    if len(texts) < 2:
        raise UsageError(
            f"--search {key}={text}: one value is no search",
            hint=f"to set it: --set {key}={text}; to search: {key}=A|B or {key}=LOW..HIGH",
        )
    try:
        values = [_parse(part) for part in texts]
    except ValueError as exc:
        raise UsageError(f"--search {key}={text}: a value is not YAML") from exc
    if "" in texts or any(values.count(value) > 1 for value in values):
        raise UsageError(f"--search {key}={text}: a value is empty or there twice")
    return Choices(texts)


def _range(key: str, text: str, match: re.Match[str], default: Any) -> Range:
    name = f"--search {key}={text}"
    low, high = float(match["low"]), float(match["high"])
    written_whole = all(re.fullmatch(r"[+-]?\d+", match[end]) for end in ("low", "high"))
    number = isinstance(default, int | float) and not isinstance(default, bool)
    whole = written_whole and (default is None or isinstance(default, int))
    if match["x"]:
        if not number:
            raise UsageError(f"{name} is relative to {key}, which is {default!r}", hint="give numbers")
        whole = isinstance(default, int)
        low, high = low * default, high * default
        if whole:
            low, high = float(math.ceil(low)), float(math.floor(high))
    scale = match["scale"]
    step = None
    if scale is not None and scale != "log":
        if re.fullmatch(_NUMBER, scale) is None or float(scale) <= 0:
            raise UsageError(f"{name}: {scale!r} is neither log nor a step above 0")
        step = float(scale)
        if whole and step != int(step):
            raise UsageError(f"{name}: {key} is a whole number, and so is its step")
    if not low < high:
        raise UsageError(f"{name}: the range is empty", hint="the lower end is below the upper one")
    if scale == "log" and low <= 0:
        raise UsageError(f"{name}: a logarithmic scale begins above 0")
    if step is not None and step > high - low:
        raise UsageError(f"{name}: the step is larger than the range")
    return Range(low, high, scale == "log", step, whole)


def _parse(text: str) -> Any:
    """Return the value of a text as YAML 1.2 has it: 1e-3 is a number. Raises: ValueError."""
    number = re.fullmatch(_NUMBER, text) is not None and re.search("[eE.]", text) is not None
    return float(text) if number else parse_yaml(text)


def _text(domain: Domain) -> str:
    if isinstance(domain, Choices):
        return "|".join(domain.texts)
    ends = [f"{end:d}" if domain.whole else repr(float(end)) for end in domain.ends()]
    scale = ":log" if domain.log else "" if domain.step is None else f":{domain.step:g}"
    return f"{ends[0]}..{ends[1]}{scale}"


def _plain(value: Any) -> Any:
    """Return a value as YAML gives it: lists for tuples."""
    return list(value) if isinstance(value, tuple) else value


def combination(space: Space, index: int) -> dict[str, Any]:
    """Return a combination of parameters of a finite space by its index below `grid_size`.

    The last setting varies fastest.
    """
    params: dict[str, Any] = {}
    for key, domain in reversed(space.items()):
        grid = domain.grid() or []
        index, digit = divmod(index, len(grid))
        params[key] = grid[digit]
    return dict(reversed(params.items()))


def grid_size(space: Space) -> int | None:
    """Return the number of combinations; None where a range without a step gives no end of them."""
    grids = [domain.grid() for domain in space.values()]
    return None if None in grids else math.prod(len(grid or []) for grid in grids)


def same_params(space: Space, params: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a key that parameters of a finite space share where they are the same, but for rounding."""
    return tuple(space[key].rank(param) for key, param in params.items())
