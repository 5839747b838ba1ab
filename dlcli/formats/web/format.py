"""A folder for browsers: the ONNX export with its preprocessing, a page, and JavaScript.

    best.web/index.html       a page to try a photo, rows, a text or a series
    best.web/predict.js       for pages of one's own: (await load()).predict(photo, rows, text or series)
    best.web/tokens.js        of texts: the tokenizer
    best.web/series.js        of series: gaps, scales, the window of a forecast
    best.web/model.json       what they need to know of the model, the vocabulary of texts too
    best.web/model.onnx       raw pixels or columns (``--embed-preprocessing``), token ids or scaled
                              series to probabilities or values
    best.web/SHA256SUMS       of these files
    best.web/ort/             onnxruntime-web, which the user puts there: no file of it is ours

Nothing is sent anywhere. What is decoded differs from `dlcli predict` by the browser's JPEG decoder; the
rest is the graph, which ONNX Runtime runs here and there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.card import Card
from dlcli.data.text.scripts import UNSPACED_SCRIPTS
from dlcli.files import write_json, write_text
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime
from dlcli.formats.onnx import folder
from dlcli.formats.onnx import format as onnx_format
from dlcli.formats.web.page import facts, page, template
from dlcli.notation.numbers import PLAIN
from dlcli.runs.folder import artifact_name
from dlcli.task import ImageInput, SeriesInput, TabularInput, TextInput

if TYPE_CHECKING:
    from dlcli.config import ExportConfig

NAME = "web"
_MODEL = "model.onnx"
_RUNTIME = "ort"  # the folder of onnxruntime-web


def write_web(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Write the folder. Raises: DlcliError, UsageError as the export to ONNX does."""
    path.mkdir(parents=True)
    raw = isinstance(source.card.task.input, ImageInput | TabularInput)
    how = "embed_preprocessing" if raw else "softmax"
    if raw or source.card.task.kind in ("classification", "multilabel"):
        config = config.model_copy(update={how: True})
    onnx_format.write_onnx(source, path / _MODEL, config)
    card = onnx_format.read_card(path / _MODEL)
    task = card.task
    name = artifact_name(source.path.parent / path.name)
    known = facts(name, "1", card)
    thresholds = None if task.thresholds is None else list(task.thresholds.values)
    outputs: dict[str, Any] = {
        "classes": list(task.class_names),
        "targets": [target.name for target in task.targets],
        "thresholds": thresholds,
        "channels": task.input.channels if isinstance(task.input, ImageInput) else None,
    }
    if isinstance(task.input, TextInput):
        outputs["tokenizer"] = _tokenizer(task.input)
        write_text(path / "tokens.js", template("tokens.js"))
    if isinstance(task.input, SeriesInput):
        outputs["series"] = _series(task.input)
        write_text(path / "series.js", template("series.js"))
    if task.targets and not raw:
        outputs["scales"] = [target.model_dump(include={"mean", "std"}) for target in task.targets]
    write_json(path / "model.json", {**known, **outputs})
    write_text(path / "predict.js", template("predict.js"))
    write_text(path / "index.html", page(name, [known], module="./predict.js"))
    folder.write_sums(path)


def _tokenizer(spec: TextInput) -> dict[str, Any]:
    """What tokens.js needs to know of a tokenizer of dlcli's own."""
    facts = spec.model_dump(include={"vocabulary", "lowercase", "max_length"}, mode="json")
    if spec.tokenizer == "word":
        return {"kind": "word", "unspaced": UNSPACED_SCRIPTS, **facts}
    merges = json.loads(spec.merges or "{}")["model"]["merges"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    return {"kind": "bpe", "merges": pairs, **facts}


def _series(spec: SeriesInput) -> dict[str, Any]:
    """What series.js needs to know of channels, length and scales."""
    fields = {"channels", "mean", "std", "length", "varies", "series_column"}
    own = {one.id: {"mean": one.mean, "std": one.std} for one in spec.series}
    return {**spec.model_dump(include=fields, mode="json"), "series": own}


def unfit(card: Card) -> str:
    """Why a browser cannot prepare a model's inputs without the code of dlcli; "" where it can."""
    task, spec = card.task, card.task.input
    if task.kind == "seq2seq":
        return f"its page is not written for {task.kind}"
    if isinstance(spec, ImageInput):
        return (
            ""
            if spec.value_range is None
            else "browsers read 8 bits of a pixel, and its images have more"
        )
    if isinstance(spec, TextInput):
        if spec.tokenizer == "file":
            return "pretrained weights' tokenizer needs the tokenizers library; --onnx has the graph"
        return "its page is not written for pairs of texts" if spec.pair else ""
    if isinstance(spec, SeriesInput):
        return ""
    if not isinstance(spec, TabularInput):
        return (
            f"it is for images, tables, texts and series, and this model reads {spec.kind} data; --onnx "
            "has the graph"
        )
    for number in spec.numbers:
        if number.format not in (None, PLAIN) or number.period:
            return (
                f"column {number.source!r} is written as {number.format}, which its page does not read"
            )
    return ""


def _model_of(path: Path) -> ModelFile:
    return folder.model_in(path, _MODEL)


def read_card(path: Path) -> Card:
    """The card of its ONNX file. Raises: DlcliError."""
    return _model_of(path).card


def verify(path: Path) -> bool:
    """Compare its files with SHA256SUMS. Raises: DlcliError where one is missing, new or changed."""
    folder.check_sums(path, besides=[_RUNTIME])
    return True


def open_web(file: ModelFile, runtime: Runtime) -> Artifact:
    """Its ONNX file in ONNX Runtime. Raises: DlcliError when a file is missing or damaged."""
    verify(file.path)
    return folder.open_in_folder(file, _model_of(file.path), runtime)


def _sniff(path: Path) -> bool:
    return all((path / name).is_file() for name in (folder.SUMS, "predict.js", "model.json"))


FORMATS.register(NAME)(
    Format(
        name=NAME,
        suffix=".web",
        sniff=_sniff,
        read_card=read_card,
        open=open_web,
        write=write_web,
        unfit=unfit,
        verify=verify,
        folder=True,
        # The graph prepares its inputs and gives probabilities in any case, and takes any size.
        options=FORMATS.get("onnx").options - {"dynamic"},
        fresh=lambda source: FORMATS.get("onnx").fresh(source),
    )
)
