"""Metrics of the user's own code: ``--metric metrics.py:kappa``.

A function of (outputs, targets) over a whole split, not averaged over batches::

    def kappa(outputs, targets):
        return cohen_kappa_score(targets, outputs.argmax(1))

    kappa.higher_is_better = True

Both are tensors on the CPU, which NumPy and scikit-learn take too: outputs are logits (N, C), embeddings
(N, D) or numbers in the data's own units (N, R) or (N, H, R); targets class indices int64 (N,), labels
0 or 1 uint8 (N, C), or numbers like the outputs. It returns a number, and is reported by the name of the
function; or a dict of numbers, whose keys are those of a dict ``higher_is_better``.

The names are part of the task (`TaskSpec.metrics`), so that every file of the model is measured so.
Where the code is missing, or may not run, or fails, its metrics are undefined, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dlcli.data.base import Targets
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.metrics.base import DIRECTIONS, Outputs, Undefined
from dlcli.evaluation.metrics.registered import METRICS, MetricEntry
from dlcli.task import TaskSpec
from dlcli.trust import CODE_FILE, METRICS_GROUP
from dlcli.user_code import UserObject, load_object
from dlcli.wording import quoted_list

_directions: dict[str, int] = {}  # of the metrics that this process has loaded


def directions() -> dict[str, int]:
    """Every metric that dlcli can report: 1 where higher is better, -1 where lower is.

    Of the user's, those that this process has loaded.
    """
    registered = {name: entry.direction for name, entry in METRICS.entries()}
    return {**DIRECTIONS, **registered, **_directions}


def direction(metric: str) -> int:
    """1 where a higher value of the metric is better, -1 where a lower one is. Raises: KeyError."""
    return DIRECTIONS[metric] if metric in DIRECTIONS else directions()[metric]


def user_metrics(task: TaskSpec) -> tuple[MetricEntry, ...]:
    """The user's metrics of a task; those that cannot be loaded are undefined, with the reason."""
    entries: list[MetricEntry] = []
    for code in task.metrics:
        try:
            entries += _load(code, task)
        except DlcliError as exc:
            reason = exc.message + (f"; {exc.hint}" if exc.hint else "")
            entries.append(MetricEntry(_function_name(code), _undefined(reason), (task.kind,), 1))
    return tuple(entries)


def check_metrics(task: TaskSpec) -> None:
    """Raises: DlcliError where a user's metric cannot be loaded, UsageError where it is none."""
    for code in task.metrics:
        _load(code, task)


def try_metrics(task: TaskSpec, outputs: Outputs, targets: Targets) -> None:
    """Call each of the user's metrics on some samples. Raises: DlcliError for a mistake in its code.

    A value that is not finite is none: other outputs may define the metric.
    """
    for code in task.metrics:
        function, _ = _load_function(code, task)
        function.compute(outputs, targets)


def _load(code: str, task: TaskSpec) -> list[MetricEntry]:
    """The entries of a function. Raises: DlcliError."""
    function, directions = _load_function(code, task)
    _directions.update({name: 1 if higher else -1 for name, higher in directions.items()})
    return [
        MetricEntry(name, partial(function.value, name), (task.kind,), _directions[name])
        for name in directions
    ]


def _load_function(code: str, task: TaskSpec) -> tuple[_Function, Mapping[str, bool]]:
    """A function, and whether higher is better, by the names of its metrics. Raises: DlcliError."""
    if task.kind == "seq2seq":
        raise UsageError(
            f"--metric {code}: the logits of seq2seq are too large to hold in memory",
            hint="leave it out; BLEU is measured",
        )
    loaded = load_object(code, METRICS_GROUP, {}, word="function")
    own = getattr(loaded.value, "__name__", _function_name(code))
    better = getattr(loaded.value, "higher_is_better", None)
    directions: dict[str, bool] = {}
    for name, higher in (better if isinstance(better, Mapping) else {own: better}).items():
        if not isinstance(higher, bool):
            raise DlcliError(
                f"--metric {code} does not say whether higher is better",
                hint=f"add to the file: {own}.higher_is_better = True; of a dict of numbers: "
                '{"name": True, ...}',
            )
        if name in DIRECTIONS or METRICS.find(name) is not None:
            raise DlcliError(
                f"--metric {code}: {name} is a metric of dlcli's own", hint="give it another name"
            )
        directions[name] = higher
    return _Function(loaded, own, tuple(directions)), directions


class _Function:
    """A user's function, called once for all of its metrics."""

    def __init__(self, loaded: UserObject, own: str, names: tuple[str, ...]) -> None:
        self._loaded, self._own, self._names = loaded, own, names
        self._last: tuple[Outputs, Targets, dict[str, float | str]] | None = None

    def value(self, name: str, outputs: Outputs, targets: Targets, task: TaskSpec) -> float:
        """The metric ``name``. Raises: Undefined."""
        if self._last is None or self._last[0] is not outputs or self._last[1] is not targets:
            self._last = (outputs, targets, self._call(outputs, targets))
        value = self._last[2][name]
        if isinstance(value, str):
            raise Undefined(value)
        return value

    def _call(self, outputs: Outputs, targets: Targets) -> dict[str, float | str]:
        """Each value by name, or why it is undefined."""
        try:
            numbers = self.compute(outputs, targets)
        except DlcliError as exc:
            return dict.fromkeys(self._names, exc.message)
        return {
            name: value if math.isfinite(value) else f"{self._own} returns {value}"
            for name, value in numbers.items()
        }

    def compute(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        """Each value by name, which may be no finite number. Raises: DlcliError."""
        import torch

        with self._loaded.errors(f"{self._own} failed"):
            # Copies: a function may write into its arguments.
            result = self._loaded.value(torch.tensor(outputs), torch.tensor(targets))
            values = result if isinstance(result, Mapping) else {self._own: result}
            numbers = {name: _number(value) for name, value in values.items()}
        self._loaded.works()
        if set(numbers) != set(self._names):
            names = quoted_list(list(map(str, numbers))), quoted_list(self._names)
            raise DlcliError(
                f"{self._own} returns {names[0]}, where its higher_is_better has {names[1]}"
            )
        return numbers


def _number(value: Any) -> float:
    """A number of Python, NumPy or torch. Raises: TypeError."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"returns a {type(value).__name__}, not a number") from None


def _undefined(reason: str) -> Callable[[Outputs, Targets, TaskSpec], float]:
    def function(outputs: Outputs, targets: Targets, task: TaskSpec) -> float:
        raise Undefined(reason)

    return function


def _function_name(code: str) -> str:
    match = CODE_FILE.fullmatch(code)
    return code if match is None else match["name"]
