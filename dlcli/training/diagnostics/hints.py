"""What a run's own figures say about it: sentences with their evidence, each said once a run.

No torch: it works on the host numbers of events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from dlcli.events import EpochDone, Event, RunFinished, RunStarted, StepDone
from dlcli.training.diagnostics import checks
from dlcli.training.diagnostics.checks import History

# Of a topic one sentence is said in a run, by whichever check finds something first.
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
    RunFinished: (("generalisation", checks.gap), ("learning rate", checks.rate_never_fell)),
}
_RECALLED = {kind.__name__: kind for kind in (RunStarted, StepDone, EpochDone, RunFinished)}
_OPTIONAL = {"accuracy", "memory_mib", "grad_norm"}  # here None means none; elsewhere it was NaN


class Hints:
    """A function of one event that gives what there is to say after it, mostly nothing.

    Give it every event of a run, from `RunStarted` to `RunFinished`. A run that goes on first gets
    `recall` with what metrics.jsonl holds, and then says nothing twice. Nothing here enters the
    training state.
    """

    def __init__(self) -> None:
        self._history = History()

    def __call__(self, event: Event) -> list[str]:
        """Sentences about the run after ``event``, each of a topic that was not spoken of before."""
        history, said = self._history, []
        history.add(event)
        for topic, check in _CHECKS.get(type(event), ()):
            if topic not in history.topics:
                sentence = check(history)
                if sentence is not None:
                    history.topics.add(topic)
                    said.append(sentence)
        return said

    def recall(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in what happened before: events as metrics.jsonl holds them, up to the resumed step.

        What those events were worth saying counts as said. Entries of other kinds, or without a field
        that they need, are left out.
        """
        for entry in events:
            event = _revived(entry)
            if event is not None:
                self(event)


def _revived(entry: Mapping[str, Any]) -> Event | None:
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
    except TypeError:  # a field that it needs is missing
        return None
