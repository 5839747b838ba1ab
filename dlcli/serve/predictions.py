"""``/predict``: what people have (photos, rows, texts) to the rows of `dlcli predict`.

A body becomes a file that the kind of data reads as it reads the files of `dlcli predict`, so that the
predictions are the same. Nothing that a client sends is ever used as a path, and photos, tables and
texts are read in the formats named here alone.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dlcli.config import PredictConfig
from dlcli.data.base import Indices, Inputs, Reader, SeriesRows
from dlcli.data.text.text_pairs import HINT, SEPARATOR, columns_of, why_no_pair
from dlcli.errors import DlcliError
from dlcli.serve.bodies import json_of
from dlcli.serve.errors import RequestError
from dlcli.settings import validate
from dlcli.task import PairsInput, TextInput
from dlcli.wording import printable, quoted, shorten

if TYPE_CHECKING:
    from dlcli.evaluation.predict import Prediction
    from dlcli.serve.models import ServedModel
    from dlcli.task import TaskSpec

_TABLES = ("tabular", "text", "pairs", "series")
MEDIA_TYPES = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "application/json": ".json",
    "text/plain": ".txt",
}
_JSON_WORDS = (b"null", b"true", b"false")
OPTIONS = ("top_k", "probabilities", "id_column", "keep_columns", "beams")
FORMATS = {"json": "application/json", "csv": "text/csv", "jsonl": "application/x-ndjson"}


@dataclass(frozen=True)
class Upload:
    """A body, or a part of one: its name for people, its media type, its bytes."""

    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True)
class Options:
    """The query of a request: settings of `predict`, and the format of the reply."""

    config: PredictConfig
    output_format: str = "json"
    min_confidence: float | None = None

    @property
    def media_type(self) -> str:
        """The media type of the reply."""
        return FORMATS[self.output_format]


class PredictReply(NamedTuple):
    """A reply: its HTTP status, its body, and what `dlcli predict` would warn about."""

    status: int
    body: bytes
    warnings: list[str]


def read_options(query: Mapping[str, str], min_confidence: float | None) -> Options:
    """The options of a request, and the server's own. Raises: RequestError, UsageError."""
    unknown = [name for name in query if name not in (*OPTIONS, "format", "model", "version")]
    if unknown:
        known = ", ".join((*OPTIONS, "format", "model", "version"))
        raise RequestError(400, f"no option is called {unknown[0][:40]!r}", hint=f"there is {known}")
    chosen = query.get("format", "json")
    if chosen not in FORMATS:
        raise RequestError(400, f"format is {', '.join(FORMATS)}, not {chosen[:40]!r}")
    values = {name: query[name] for name in OPTIONS if name in query}
    return Options(validate(PredictConfig, values), chosen, min_confidence)


def predict_uploads(
    model: ServedModel,
    uploads: Sequence[Upload],
    options: Options,
    folder: Path,
    decoding: threading.Semaphore,
) -> PredictReply:
    """The reply; ``decoding`` bounds how many are decoded at once.

    Raises: RequestError, DlcliError for inputs that cannot be read.
    """
    from dlcli.data.kinds import ReadOptions, kind_of
    from dlcli.evaluation.predict import predict
    from dlcli.ui.predict_rows import prediction_head, prediction_rows
    from dlcli.ui.predict_writers import WRITERS

    task, kind = model.task, kind_of(model.task)
    least = options.min_confidence if task.kind == "classification" else None
    with _files(uploads, task, folder) as (paths, names):
        with decoding:
            samples = kind.inputs([str(path) for path in paths], task)
            if not len(samples):
                raise RequestError(400, "there is nothing to predict")
            facts = {"command": "predict", "model": model.name, "version": model.version}
            head, carried = prediction_head(facts, task, samples, options.config)
            reader = _Gated(kind.reader(samples, task, ReadOptions(workers=1)), decoding)
        notices = [notice.message for notice in (*samples.notices, *reader.notices)]
        warnings = [names.words(message) for message in (*notices, *carried.messages)]
        head = replace(
            head,
            facts={**head.facts, "warnings": warnings},
            keys=(*head.keys, *next(iter(reader.row_keys(0)), {})),
        )
        predictions = predict(
            model.batches,
            reader,
            task,
            top_k=head.top_k,
            beams=options.config.beams,
            carried=carried.cells,
        )
        named = map(names.rename, predictions)
        rows = prediction_rows(named, head, carried, lambda event: None)
        if least is not None:
            head = replace(head, keys=(*head.keys, "abstained"))
            rows = (abstaining(row, least) for row in rows)
        out = io.StringIO()
        WRITERS[options.output_format](rows, out, head)
    failed = len(head.failed)
    status = 400 if failed == len(samples) else 200
    return PredictReply(status, out.getvalue().encode(errors="surrogateescape"), warnings)


def abstaining(row: Mapping[str, Any], least: float) -> dict[str, Any]:
    """A row of a classifier without its label where that is less probable than ``least``."""
    abstained = row["probability"] < least
    return {**row, "abstained": abstained, **({"label": None} if abstained else {})}


class _Gated(Reader):
    """A reader that decodes only while few others do: each photo may take hundreds of megabytes."""

    def __init__(self, reader: Reader, gate: threading.Semaphore) -> None:
        super().__init__(reader.samples)
        self._reader, self._gate = reader, gate
        self.bad, self.notices, self.lengths = reader.bad, reader.notices, reader.lengths

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """As `Reader.read`."""
        with self._gate:
            return self._reader.read(indices)

    def series(self, indices: Indices) -> SeriesRows | None:
        """As `Reader.series`."""
        return self._reader.series(indices)

    def row_keys(self, index: int) -> list[dict[str, str]]:
        """As `Reader.row_keys`."""
        return self._reader.row_keys(index)

    def close(self) -> None:
        """As `Reader.close`."""
        self._reader.close()


@dataclass(frozen=True)
class _Names:
    """What clients call the files that their bodies became."""

    folder: Path
    uploads: Mapping[str, str]  # name of the file to name of the client

    def words(self, text: str) -> str:
        """A text with the names of the client."""
        for file, name in self.uploads.items():
            text = text.replace(str(self.folder / file), name).replace(file, name)
        return text

    def rename(self, prediction: Prediction) -> Prediction:
        """A prediction with the names of the client."""
        name = self.words(prediction.input)
        rows = tuple({**row, "input": name} for row in prediction.rows)
        error = None if prediction.error is None else self.words(prediction.error)
        return replace(prediction, input=name, rows=rows, error=error)


@contextmanager
def _files(
    uploads: Sequence[Upload], task: TaskSpec, folder: Path
) -> Iterator[tuple[list[Path], _Names]]:
    """The bodies as files, in a folder of their own that is removed at the end.

    Raises: RequestError for a media type that the model has no use for; errors name no file of ours.
    """
    with tempfile.TemporaryDirectory(dir=folder) as own:
        paths, known = [], {}
        for number, upload in enumerate(uploads):
            suffix, data = _as_file(upload, task)
            path = Path(own) / f"upload-{number:04}{suffix}"
            path.write_bytes(data)
            paths.append(path)
            known[path.name] = printable(upload.name)
        names = _Names(Path(own), known)
        try:
            yield paths, names
        except DlcliError as exc:
            exc.message = names.words(exc.message)
            exc.hint = None if exc.hint is None else names.words(exc.hint)
            raise


def _as_file(upload: Upload, task: TaskSpec) -> tuple[str, bytes]:
    """The suffix and the content of the file for a body. Raises: RequestError (400, 415)."""
    kind = task.input.kind
    if not upload.data:
        raise RequestError(400, f"{upload.name} is empty")
    if kind == "image":
        return "", upload.data  # by its content: no name makes it a table of paths
    suffix = MEDIA_TYPES.get(upload.media_type) or _guess(upload.data, task)
    if kind not in _TABLES:
        raise RequestError(
            415,
            f"/predict has no form of {kind} inputs",
            hint="send tensors to /v2/models/NAME/infer",
        )
    if suffix == ".json":
        return ".jsonl", _json_lines(json_of(upload.data), task)
    if suffix == ".txt" and kind in ("tabular", "series"):
        suffix = ".csv"
    return suffix, upload.data


def _guess(data: bytes, task: TaskSpec) -> str:
    """The suffix for a body of no media type that says what it is, as curl -d sends it."""
    texts = task.input.kind in ("text", "pairs")
    if data.lstrip()[:1] in (b"{", b"[", b'"') or (not texts and data.strip() in _JSON_WORDS):
        return ".json"
    return ".txt" if texts else ".csv"


def _json_lines(value: Any, task: TaskSpec) -> bytes:
    """Rows of JSON as a table: an object, a list of objects; a text or a list of texts.

    Raises: RequestError.
    """
    rows = value if isinstance(value, list) else [value]
    spec = task.input
    columns: tuple[str, ...] = ()
    if isinstance(spec, TextInput):
        columns = columns_of(spec) or ("text",)
    elif isinstance(spec, PairsInput):
        columns = (spec.source.column or "text",)
    if not rows:
        raise RequestError(400, "the body has no rows")
    objects = [_json_row(number, row, columns) for number, row in enumerate(rows)]
    if not any(objects):
        raise RequestError(400, "the rows have no columns", hint='[{"a": 1, "b": "x"}, ...]')
    return "".join(json.dumps(row) + "\n" for row in _without_mixed_columns(objects)).encode()


def _without_mixed_columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with true and false as texts in columns that have numbers too, which polars refuses."""
    kinds: dict[str, set[bool]] = {}
    for row in rows:
        for column, cell in row.items():
            if isinstance(cell, bool | int | float):
                kinds.setdefault(column, set()).add(isinstance(cell, bool))
    mixed = {column for column, booleans in kinds.items() if len(booleans) == 2}
    if not mixed:
        return rows
    return [
        {name: json.dumps(v) if name in mixed and isinstance(v, bool) else v for name, v in row.items()}
        for row in rows
    ]


def _json_row(number: int, row: Any, columns: tuple[str, ...]) -> dict[str, Any]:
    """A row of JSON as an object; a text is one of the ``columns`` of texts. Raises: RequestError."""
    if isinstance(row, str) and columns:
        reason = why_no_pair(row) if len(columns) == 2 else None
        if reason is not None:
            raise RequestError(400, f"row {number}: {reason}", hint=HINT)
        return dict(zip(columns, row.split(SEPARATOR, len(columns) - 1), strict=True))
    if not isinstance(row, dict):
        form = "an object of columns" + (", or a text" if columns else "")
        shown = shorten(json.dumps(row), 60)
        hint = '[{"a": 1, "b": "x"}, ...]'
        raise RequestError(400, f"row {number} is {shown}, and a row is {form}", hint=hint)
    for column, cell in row.items():
        where = f"row {number}: {quoted(column)}"
        if isinstance(cell, dict | list):
            form = "an object" if isinstance(cell, dict) else "a list"
            raise RequestError(
                400,
                f"{where} is {form}: {shorten(json.dumps(cell), 60)}",
                hint="a cell is a number, a text, true, false, or null where it is missing",
            )
        if isinstance(cell, float) and math.isinf(cell):
            raise RequestError(400, f"{where} is beyond float64 (1.8e308): null is a missing value")
    return row
