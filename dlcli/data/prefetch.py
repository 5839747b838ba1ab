"""Prefetching: run an iterator a few items ahead in a thread, so that decoding overlaps computation."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(source: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The items of ``source`` in order; at most ``depth`` of them wait in memory.

    An exception of the source is raised in place of its item. Leaving the loop early stops the thread.
    """
    items: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def work() -> None:
        end = _End(None)
        try:
            for item in source:
                if not _put(items, item, stop):
                    return
        except BaseException as exc:
            end = _End(exc)
        _put(items, end, stop)

    thread = threading.Thread(target=work, name="dlcli-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = items.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop.set()
        thread.join()


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _put(items: queue.Queue[T], item: T, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            items.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
