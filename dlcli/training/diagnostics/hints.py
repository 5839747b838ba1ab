"""Hints from the events of a run, each at most once per run.

No torch: it works on the host numbers of events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from dlcli.events import EpochDone, Event, RunFinished, RunStarted, StepDone
from dlcli.training.diagnostics import checks, time_checks
from dlcli.training.diagnostics.checks import History

# One hint per topic in a run, from the first check that detects something.
_CHECKS: dict[type[Event], tuple[tuple[str, Callable[[History], str | None]], ...]] = {
    StepDone: (
        ("skipped steps", checks.skipped),
        ("exploding gradients", checks.exploding),
        ("vanishing gradients", checks.vanishing),
    ),
    EpochDone: (
        ("breakdown", checks.diverging),
        ("no learning", checks.not_learning),
        ("no learning", checks.one_class),
        ("generalisation", checks.other_data),
        ("generalisation", checks.over_fitting),
    ),
    RunFinished: (
        ("generalisation", checks.gap),
        ("learning rate", checks.rate_never_fell),
        ("time", time_checks.busy_machine),
        ("time", time_checks.waiting_for_data),
        ("time", time_checks.long_evaluation),
        ("time", time_checks.long_saving),
    ),
}
_RECALLED = {kind.__name__: kind for kind in (RunStarted, StepDone, EpochDone, RunFinished)}
_OPTIONAL = {"accuracy", "memory_mib", "grad_norm"}  # None means none here; elsewhere it stands for NaN


class Hints:
    """A function from an event to new hints, mostly none.

    Call it with every event of a run, from `RunStarted` to `RunFinished`. For a resumed run call
    `recall` first, with the events of metrics.jsonl, so that no hint is repeated. Nothing here is part
    of the training state.
    """

    def __init__(self) -> None:
        self._history = History()

    def __call__(self, event: Event) -> list[str]:
        """Return the hints after ``event``, each of a topic without an earlier hint."""
        history, hints = self._history, []
        history.add(event)
        for topic, check in _CHECKS.get(type(event), ()):
            if topic not in history.topics:
                hint = check(history)
                if hint is not None:
                    history.topics.add(topic)
                    hints.append(hint)
        return hints

    def recall(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Replay the earlier events of a resumed run, as recorded in metrics.jsonl.

        The hints of these events count as given. Entries of other kinds, or without a required field,
        are ignored.
        """
        for entry in events:
            event = _parse_event(entry)
            if event is not None:
                self(event)


def _parse_event(entry: Mapping[str, Any]) -> Event | None:
    """An event from its line in metrics.jsonl, where None stands for NaN and infinity."""
    kind = _RECALLED.get(str(entry.get("event")))
    if kind is None:
        return None
    values = {f.name: entry[f.name] for f in fields(kind) if f.name in entry}
    for name, value in values.items():
        if value is None and name not in _OPTIONAL:
            values[name] = math.nan
        elif name == "val":
            values[name] = {k: math.nan if v is None else v for k, v in value.items()}
    try:
        return kind(**values)
    except TypeError:  # a required field is missing
        return None
