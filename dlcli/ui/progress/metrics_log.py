"""metrics.jsonl: the log of a run, one line of JSON per event."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from dlcli.events import Emit, EvalProgress, Event, LiveEvent
from dlcli.files import write_bytes, writing
from dlcli.runs.folder import RunFolder, event_lines
from dlcli.ui.json_output import to_json
from dlcli.ui.progress.run_sinks import register_sink


@register_sink("metrics.jsonl", enabled=lambda fit: True)
def open_metrics_log(run: RunFolder, emit: Emit) -> AbstractContextManager[Emit]:
    """Append the events of a run to its metrics.jsonl."""
    return MetricsLog(run.metrics)


class MetricsLog:
    """A sink that appends every event except progress and live ones, flushed after each line.

    The file is opened at the first event, so that `truncate_events` may run before. A power failure
    can leave an incomplete last line, which readers skip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def __call__(self, event: Event) -> None:
        """Write one line. Raises: DlcliError when the disk is full or the folder is read-only."""
        if isinstance(event, EvalProgress | LiveEvent):
            return
        with writing(self.path):
            if self._file is None:
                self._file = _open_at_line_start(self.path)
            self._file.write(to_json(event.to_dict()).encode("ascii") + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; a later event opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def truncate_events(path: Path, step: int) -> None:
    """Remove the events after ``step``, for a run that resumes from the state of that step.

    Events with a step are kept up to ``step``; those without one are kept while they come before the
    first event that is dropped. Kept lines stay byte for byte; the file is replaced as a whole.
    A missing file stays missing. Raises: DlcliError when it cannot be read or written.
    """
    if not path.exists():
        return
    lines: list[bytes] = []
    dropped = False
    for line, event in event_lines(path):
        at = event.get("step")
        if at <= step if isinstance(at, int) else not dropped:
            lines.append(line)
        else:
            dropped = True
    write_bytes(path, b"".join(line + b"\n" for line in lines))


def _open_at_line_start(path: Path) -> BinaryIO:
    """Open for appending, after ending an incomplete last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b")
    if file.seek(0, 2) > 0:
        file.seek(-1, 2)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file
