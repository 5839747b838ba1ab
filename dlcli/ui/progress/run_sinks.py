"""Sinks that the events of a run go to besides the screen. A new one is a file in this package.

    @register_sink("csv")
    def csv_sink(run: RunFolder, emit: Emit) -> AbstractContextManager[Emit]: ...

``--set fit.sinks=[csv]`` opens it. ``emit`` is the screen, for warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from dlcli.config import FitConfig
from dlcli.events import Emit, Tee
from dlcli.registry import Registry
from dlcli.runs.folder import RunFolder

OpenSink = Callable[[RunFolder, Emit], AbstractContextManager[Emit]]


@dataclass(frozen=True)
class RunSink:
    """How a sink is opened, and whether the settings ask for it."""

    open: OpenSink
    enabled: Callable[[FitConfig], bool]


SINKS: Registry[RunSink] = Registry("sink", "dlcli.ui.progress")


def register_sink(
    name: str, *, enabled: Callable[[FitConfig], bool] | None = None
) -> Callable[[OpenSink], OpenSink]:
    """Decorator: register a function that opens a sink; by default ``fit.sinks`` enables it by name."""

    def register(open_sink: OpenSink) -> OpenSink:
        SINKS.register(name)(RunSink(open_sink, enabled or (lambda fit: name in fit.sinks)))
        return open_sink

    return register


@contextmanager
def run_sinks(run: RunFolder, fit: FitConfig, screen: Emit) -> Iterator[Emit]:
    """Yield one sink for a run's events: the screen, and all that the settings enable.

    Raises: DlcliError where one cannot be opened.
    """
    with ExitStack() as stack:
        opened = [
            stack.enter_context(sink.open(run, screen))
            for _, sink in SINKS.entries()
            if sink.enabled(fit)
        ]
        yield Tee([screen, *opened])
