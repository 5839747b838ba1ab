"""Dynamic micro-batching: requests that wait at the same time become one call of the model.

One thread a model runs its calls. While it runs one, requests queue up for the next, so batches grow
with the load by themselves; an idle model starts at once. B is the number of samples in a batch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcli.data.base import Inputs
    from dlcli.formats.base import Outputs
    from dlcli.task import TaskSpec

Predict = Callable[["Inputs"], "Outputs"]
# (samples in the call, requests in it, seconds of the call)
Observe = Callable[[int, int, float], None]
# By which a changed file is compared with the served one: of the last batches, of each.
_RECENT_BATCHES, _RECENT_SAMPLES = 16, 4


@dataclass
class _Waiting:
    """The inputs of a request, B samples, and where its outputs go."""

    inputs: Inputs
    key: tuple[Any, ...]
    future: Future[Outputs] = field(default_factory=Future)

    @property
    def samples(self) -> int:
        return len(self.inputs[0])


class MicroBatcher:
    """A model's call for inputs of several requests at once.

    A batch has at most ``max_batch`` samples; a larger request is divided. A batch that is smaller than
    the last one waits up to ``max_wait_s`` for more, since clients that wait for replies come back
    together; a lone client never waits. Dimensions that vary, such as the length of texts, are padded
    with 0 at the end, as readers do.
    """

    def __init__(
        self,
        predict: Predict,
        task: TaskSpec,
        *,
        max_batch: int,
        max_wait_s: float,
        observe: Observe = lambda samples, requests, seconds: None,
    ) -> None:
        self._predict, self._task = predict, task
        self._max_batch, self._max_wait_s = max_batch, max_wait_s
        self._observe = observe
        self._dims = [tensor.dims for tensor in task.input.signature]
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._queued = 0  # samples in the queue
        self._last = 1  # samples of the last batch
        self._recent: deque[Inputs] = deque(maxlen=_RECENT_BATCHES)
        self._thread = threading.Thread(target=self._work, name="dlcli-batches", daemon=True)
        self._thread.start()

    def submit(self, inputs: Inputs) -> Future[Outputs]:
        """The outputs of a batch, once they are there."""
        waiting = _Waiting(inputs, self._key(inputs))
        with self._changed:
            if not self._closed:
                self._queue.append(waiting)
                self._queued += waiting.samples
                self._changed.notify()
                return waiting.future
        self._run(_begun([waiting]))  # of a request that began before its model was replaced
        return waiting.future

    def __call__(self, inputs: Inputs) -> Outputs:
        """The outputs of a batch; the thread waits for them. Raises: what the model raises."""
        return self.submit(inputs).result()

    def close(self) -> None:
        """Compute what waits, then end the thread; later requests run alone."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def recent(self) -> list[Inputs]:
        """Some samples of each of the last batches."""
        return list(self._recent)

    def _key(self, inputs: Inputs) -> tuple[Any, ...]:
        """What must be equal for two inputs to share a batch: the fixed sizes of their arrays."""
        return tuple(
            tuple(
                None if at < len(dims) and isinstance(dims[at], str) else size
                for at, size in enumerate(array.shape)
            )
            for array, dims in zip(inputs, self._dims, strict=True)
        )

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            if not (batch := _begun(taken)):
                continue
            started = time.perf_counter()
            self._run(batch)
            samples = sum(each.samples for each in batch)
            self._last = samples
            self._recent.append(tuple(array[:_RECENT_SAMPLES].copy() for array in batch[0].inputs))
            self._observe(samples, len(batch), time.perf_counter() - started)

    def _next(self) -> list[_Waiting] | None:
        """The requests of the next batch, in their order; None after the last."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait()
            until = time.monotonic() + self._max_wait_s
            while self._queued < min(self._last, self._max_batch) and not self._closed:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return self._take()

    def _take(self) -> list[_Waiting]:
        """Remove the oldest request from the queue, and those after it that fit into its batch."""
        first = self._queue.popleft()
        batch, samples, others = [first], first.samples, []
        while self._queue and samples < self._max_batch:
            each = self._queue.popleft()
            if each.key == first.key and samples + each.samples <= self._max_batch:
                batch.append(each)
                samples += each.samples
            else:
                others.append(each)
        self._queue.extendleft(reversed(others))
        self._queued -= samples
        return batch

    def _run(self, batch: Sequence[_Waiting]) -> None:
        """Give each request its outputs, or its error: one that fails spoils no other."""
        if len(batch) == 1:
            _settle(batch[0].future, lambda: self._whole(batch[0].inputs))
            return
        try:
            joined = self._predict(_join([each.inputs for each in batch]))
        except Exception:  # any of the requests may be the cause: each is tried alone and reported
            for each in batch:
                self._run([each])
            return
        start = 0
        for each in batch:
            rows = joined[start : start + each.samples]
            start += each.samples
            each.future.set_result(self._own(rows, each.inputs))

    def _whole(self, inputs: Inputs) -> Outputs:
        """The outputs of one request, in parts where it is larger than a batch."""
        import numpy as np

        samples, most = len(inputs[0]), self._max_batch
        if samples <= most:
            return self._predict(inputs)
        parts = [
            self._predict(tuple(array[at : at + most] for array in inputs))
            for at in range(0, samples, most)
        ]
        return np.concatenate(parts)

    def _own(self, rows: Outputs, inputs: Inputs) -> Outputs:
        """The outputs of a request without the steps that its batch has been padded by."""
        sizes = {
            dim: array.shape[at]
            for array, dims in zip(inputs, self._dims, strict=True)
            for at, dim in enumerate(dims)
            if isinstance(dim, str)
        }
        for at, dim in enumerate(self._task.output.dims[1:], 1):
            if isinstance(dim, str):
                rows = rows.take(range(sizes[dim]), axis=at)
        return rows


def _begun(waiting: Sequence[_Waiting]) -> list[_Waiting]:
    """Those that somebody still awaits: a request that was cancelled takes no outputs.

    From here on they cannot be cancelled, so the thread that sets their outputs never fails on one.
    """
    return [each for each in waiting if each.future.set_running_or_notify_cancel()]


def _settle(future: Future[Outputs], compute: Callable[[], Outputs]) -> None:
    try:
        future.set_result(compute())
    except Exception as exc:  # it is raised where the outputs are awaited
        future.set_exception(exc)


def _join(parts: Sequence[Inputs]) -> Inputs:
    """The arrays of several requests along their first axis, padded to the longest."""
    import numpy as np

    joined = []
    for arrays in zip(*parts, strict=True):
        shape = tuple(max(sizes) for sizes in zip(*(a.shape[1:] for a in arrays), strict=True))
        if all(array.shape[1:] == shape for array in arrays):
            joined.append(np.concatenate(arrays))
            continue
        out = np.zeros((sum(map(len, arrays)), *shape), dtype=arrays[0].dtype)
        start = 0
        for array in arrays:
            where = (slice(start, start + len(array)), *(slice(size) for size in array.shape[1:]))
            out[where] = array
            start += len(array)
        joined.append(out)
    return tuple(joined)
