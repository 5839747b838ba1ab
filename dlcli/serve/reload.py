"""Files that change while they are served: opened anew, compared with the served ones, swapped in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.errors import DlcliError
from dlcli.serve.gateway import log_line

if TYPE_CHECKING:
    from dlcli.data.base import Inputs
    from dlcli.formats.base import Artifact
    from dlcli.serve.models import ServedModel
    from dlcli.serve.state import ServerState

# (inode, size, time of change) of each file of a model
Identity = tuple[tuple[int, int, int], ...]
_POLL_S = 1.0
_RANDOM_SAMPLES = 32
# Of the samples, for classes, labels, tokens and nearest neighbours.
MIN_AGREEMENT = 0.95
# For numbers and embeddings: the largest difference, of the largest output.
MAX_DIFFERENCE = 0.05


class Watcher:
    """A thread that looks at the files of the models once a second.

    ``reopen`` opens the new file of a model. With ``force`` it is served whatever it computes, else
    only if its task is the same and it agrees with the served model on recent inputs (on random ones
    where there were none).
    """

    def __init__(
        self, state: ServerState, reopen: Callable[[ServedModel], ServedModel], *, force: bool
    ) -> None:
        self._state, self._reopen, self._force = state, reopen, force
        self._seen = {model.key: identity(model.artifact.path) for model in state.models.all()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dlcli-reload", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, after the reload that it is at."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        changed: dict[tuple[str, str], Identity | None] = {}
        gone: set[tuple[str, str]] = set()
        while not self._stop.wait(_POLL_S):
            for model in self._state.models.all():
                now = identity(model.artifact.path)
                if now is not None:
                    gone.discard(model.key)
                # It is opened once it has been the same twice: it may still be written.
                if now == self._seen[model.key]:
                    changed.pop(model.key, None)
                elif model.key not in changed or changed[model.key] != now:
                    changed[model.key] = now
                elif now is not None:
                    self._seen[model.key] = now
                    self._replace(model)
                elif model.key not in gone:
                    gone.add(model.key)
                    message = f"{model.artifact.path} is gone; {model.name} is served on from memory"
                    log_line("warning", message=message)

    def _replace(self, model: ServedModel) -> None:
        result, reason = "refused", ""
        try:
            new = self._reopen(model)
        except DlcliError as exc:
            result, reason = "unreadable", exc.message
        else:
            problem = None if self._force else difference(model, new.artifact)
            if problem is None:
                self._state.models.add(new)
                model.batches.close()
                result = "served"
            else:
                new.batches.close()
                reason = f"{problem}; --reload force would serve it"
        self._state.metrics.reload(model.name, result)
        log_line("reload", model=model.name, path=str(model.artifact.path), result=result, reason=reason)


def identity(path: Path) -> Identity | None:
    """What changes when a model's file, or one of its folder, does; None where it cannot be read."""
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        stats = [file.stat() for file in files]
    except OSError:
        return None
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


def difference(served: ServedModel, new: Artifact) -> str | None:
    """Why a new file is no replacement of a served model, in words; None where it is one."""
    import numpy as np

    from dlcli.data.prepare import random_inputs
    from dlcli.evaluation.agreement import agreement_of

    task = served.task
    if new.card.task != task:
        return "its task differs: classes, targets, inputs or preprocessing"
    several: list[Inputs] = served.batches.recent() or [random_inputs(task, _RANDOM_SAMPLES)]
    agreements, weights, largest, scale = [], [], 0.0, 1.0
    for inputs in several:
        before, after = served.artifact.predict(inputs), new.predict(inputs)
        if not np.isfinite(after).all():
            return "its outputs are not finite"
        share = agreement_of(before, after, task)
        if share is not None:
            agreements.append(share)
            weights.append(len(before))
        largest = max(largest, float(np.abs(before - after).max()))
        scale = max(scale, float(np.abs(before).max()))
    samples = sum(len(inputs[0]) for inputs in several)
    if task.kind not in ("embedding",) and agreements:
        agreement = float(np.average(agreements, weights=weights))
        if agreement >= MIN_AGREEMENT:
            return None
        return f"it agrees with the served model on {agreement:.1%} of {samples} samples"
    if largest <= MAX_DIFFERENCE * scale:
        return None
    return f"its outputs differ from the served model's by up to {largest:.3g} on {samples} samples"
