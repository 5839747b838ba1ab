"""A short program that predicts with an ONNX file, without dlcli: for images, and for raw tables.

It reads what it must know from the file's metadata (`dlcli.formats.onnx.export.metadata_notes`).
"""

from __future__ import annotations

from pathlib import Path

from dlcli import transforms
from dlcli.card import Card
from dlcli.errors import UsageError
from dlcli.formats.onnx.embed import takes_raw_inputs

_START = '''"""{title}: python predict_onnx.py {what} ...

Written by dlcli export. It needs numpy, {needs}onnxruntime, and {file} next to it.
"""
import {imports}json, sys
from pathlib import Path

import numpy as np
import onnxruntime
{pillow}
session = onnxruntime.InferenceSession(str(Path(__file__).with_name({file!r})))
about = session.get_modelmeta().custom_metadata_map
task, spec = json.loads(about["task"]), json.loads(about["preprocessing"])
batch = session.get_inputs()[0].shape[0]  # a number where the file takes batches of one size alone
'''
_OPENED = '''

def eight_bits(values):
    """16 bits or floats scaled by the range of the training files; without one by the high byte."""
    if spec.get("value_range") is None:
        return (values >> 8).astype(np.uint8)
    low, high = map(np.float32, spec["value_range"])
    scaled = (values.astype(np.float32) - low) * np.float32(255 / (high - low))
    return np.floor(scaled + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def opened(path):
    """The image upright, transparent parts white, grey or RGB."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode[0] in "IF":  # more than 8 bits
        image = Image.fromarray(eight_bits(np.asarray(image)))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB" if spec["channels"] == 3 else "L")
'''
_PIXELS = """

def inputs(path):
    image, size = opened(path), (spec["width"], spec["height"])
    cut = np.array(image.size, float)
    if spec["resize"] == "crop":  # the centre, in source pixels
        cut = np.minimum(cut.min() / spec["resize_size"] * np.array(size), cut)
    start = (np.array(image.size) - cut) / 2
    how = getattr(Image.Resampling, spec["interpolation"].upper())
    image = image.resize(size, how, box=(*start, *np.minimum(start + cut, image.size)))
    x = np.asarray(image, np.float32).reshape(*size[::-1], spec["channels"]) / 255
    x = (x - np.float32(spec["mean"])) / np.float32(spec["std"])
    return {"input": x.transpose(2, 0, 1)[None]}
"""
_RAW_PIXELS = """

def inputs(path):
    pixels = np.asarray(opened(path))
    if spec.get("value_range"):  # the graph takes the values of the files
        low, high = spec["value_range"]
        pixels = pixels.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
    return {"image": pixels.reshape(1, *pixels.shape[:2], spec["channels"])}
"""
_CELLS = """

def number(cell):
    try:
        return float(cell)
    except ValueError:
        return np.nan  # missing


def inputs(row):
    feeds = {}
    if spec["numbers"]:
        feeds["numeric"] = np.array([[number(row[c["name"]]) for c in spec["numbers"]]])
    if spec["categories"]:
        feeds["words"] = np.array([[row[c["name"]].strip() for c in spec["categories"]]], object)
    return feeds
"""
_ASK = """

def ask(feeds):
    if isinstance(batch, int):
        feeds = {name: np.repeat(x, batch, axis=0) for name, x in feeds.items()}
    x = session.run(None, feeds)[0][0]
    {read}
"""
_ROWS = {
    "image": """

for path in sys.argv[1:]:
    print(json.dumps({"input": path, **ask(inputs(path))}))
""",
    "tabular": """

for path in sys.argv[1:]:
    with open(path, newline="", encoding="utf-8") as file:
        for i, row in enumerate(csv.DictReader(file)):
            print(json.dumps({"input": f"{path}:{i}", **ask(inputs(row))}))
""",
}
_READ = {
    "classification": """{softmax}names = json.loads(about["classes"])
    return {{"label": names[x.argmax()], "probability": float(x.max())}}""",
    "multilabel": """{sigmoid}names = json.loads(about["classes"])
    return {{"probabilities": dict(zip(names, x.tolist()))}}""",
    "regression": """targets = json.loads(about["targets"])
    return {{t["name"]: {value} for t, v in zip(targets, x.tolist())}}""",
    "embedding": """return {{"embedding": x.tolist()}}""",
}


def check_example(card: Card, *, embedded: bool) -> None:
    """Raises: UsageError for what no short program can ask."""
    kind = card.task.input.kind
    if kind == "image" or (kind == "tabular" and embedded):
        return
    hint = "add --embed-preprocessing" if kind == "tabular" else "leave --with-example out"
    raise UsageError(
        "--with-example for ONNX is for images, and for tables with --embed-preprocessing: "
        f"what a model of {kind} data reads takes more than a short program",
        hint=hint,
    )


def example(path: Path, card: Card) -> str:
    """The program. Raises: UsageError as `check_example`."""
    embedded = takes_raw_inputs(card)
    check_example(card, embedded=embedded)
    image = card.task.input.kind == "image"
    readable = transforms.find_record(card.transforms, transforms.PROBABILITIES) is not None
    start = _START.format(
        title="Ask a model about " + ("images" if image else "the rows of tables"),
        what="IMAGE" if image else "TABLE.csv",
        needs="pillow and " if image else "",
        file=path.name,
        imports="" if image else "csv, ",
        pillow="from PIL import Image, ImageOps\n" if image else "",
    )
    body = (_OPENED + (_RAW_PIXELS if embedded else _PIXELS)) if image else _CELLS
    read = _READ[card.task.kind].format(
        softmax="" if readable else "x = np.exp(x - x.max()) / np.exp(x - x.max()).sum()\n    ",
        sigmoid="" if readable else "x = 1 / (1 + np.exp(-x))\n    ",
        value="v" if readable else 'v * t["std"] + t["mean"]',
    )
    ask = _ASK.replace("{read}", read)
    return start + body + ask + _ROWS["image" if image else "tabular"]
