"""A short program that predicts with an ONNX file, without dlcli: for images, and for raw tables.

It reads what it must know from the card in the file's metadata, which every ONNX file of dlcli has.
"""

from __future__ import annotations

from pathlib import Path

from dlcli import transforms
from dlcli.card import CARD_KEY, Card
from dlcli.errors import UsageError
from dlcli.formats.examples.base import Example
from dlcli.formats.onnx.embed import takes_raw_inputs

_START = '''"""{title}: python predict_onnx.py {what} ...

Written by dlcli export. It needs numpy, {needs}onnxruntime, and {file} next to it.
"""
import {imports}json, sys
{times}from pathlib import Path

import numpy as np
import onnxruntime
{pillow}
session = onnxruntime.InferenceSession(str(Path(__file__).with_name({file!r})))
task = json.loads(session.get_modelmeta().custom_metadata_map[{key!r}])["task"]
spec = task["input"]
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
_CELLS = r"""

def number(cell, form):
    '''A cell as a number, by the format of its column; times are seconds, NaN is missing.'''
    cell = " ".join(cell.split()).replace("\u2212", "-")
    try:
        if re.search("%[A-Za-z#]", form):
            return seconds(cell, form)
        group, decimal = re.search(r"1(\D?)234(\D)5", form).groups()
        other = "[.]" if decimal == "," else ","  # separates thousands, if anything
        group = re.escape(group) if group else rf"(?<=\d){other}(?=\d{{3}}(\D|$))"
        cell = re.sub(group, "", cell)
        digits = re.sub(r"[^\d,.'eE+-]", "", cell).replace(decimal, ".")
        return -float(digits) if cell.startswith("(") or cell.endswith("-") else float(digits)
    except ValueError:
        return np.nan


def seconds(cell, form):
    '''The time since 1970, or since midnight where the format has no date.'''
    form = form.replace("%.f", ".%f" if re.search(r":\d+\.", cell) else "").replace("%#z", "%z")
    cell = re.sub(r"^(\d{4}-\d+-\d+)T", r"\1 ", cell)
    if "%q" in form:
        quarter = int(re.search(r"(?:Q|^)([1-4])(?!\d)", cell)[1])
        cell, form = re.search(r"\d{4}", cell)[0] + f"-{3 * quarter - 2}", "%Y-%m"
    try:
        time = datetime.strptime(cell, form)
    except ValueError:
        time = datetime.strptime(cell, form.replace("%B", "%b"))
    if "%y" not in form.lower():
        return (time - datetime(1900, 1, 1)).total_seconds()
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()


def inputs(row):
    feeds = {}
    if spec["numbers"]:
        cells = [number(row[c["column"] or c["name"]], c["format"] or "1234.5") for c in spec["numbers"]]
        feeds["numeric"] = np.array([cells])
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
        delimiter = max(",;\\t|", key=file.readline().count)
        file.seek(0)
        for i, row in enumerate(csv.DictReader(file, delimiter=delimiter)):
            print(json.dumps({"input": f"{path}:{i}", **ask(inputs(row))}))
""",
}
_READ = {
    "classification": """{softmax}names = task["class_names"]
    k = {predicted}
    return {{"label": names[k], "probability": float(x[k])}}""",
    "multilabel": """{sigmoid}names = task["class_names"]
    return {{{labels}"probabilities": dict(zip(names, x.tolist()))}}""",
    "regression": """return {{t["name"]: {value} for t, v in zip(task["targets"], x.tolist())}}""",
    "embedding": """return {{"embedding": x.tolist()}}""",
}


def check_example(card: Card, *, embedded: bool) -> None:
    """Raises: UsageError for what no short program can ask."""
    kind = card.task.input.kind
    if kind == "image" or (kind == "tabular" and embedded):
        return
    hint = "add --embed-preprocessing" if kind == "tabular" else "leave it out"
    raise UsageError(
        "--example python for ONNX is for images, and for tables with --embed-preprocessing: "
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
        key=CARD_KEY,
        imports="" if image else "csv, re, ",
        times="" if image else "from datetime import datetime, timezone\n",
        pillow="from PIL import Image, ImageOps\n" if image else "",
    )
    body = (_OPENED + (_RAW_PIXELS if embedded else _PIXELS)) if image else _CELLS
    limits = () if card.task.thresholds is None else card.task.thresholds.values
    read = _READ[card.task.kind].format(
        predicted=f"int(x[1] > {limits[0]!r})" if limits else "int(x.argmax())",
        labels=f'"labels": [n for n, p, t in zip(names, x, {list(limits)!r}) if p > t], ' * bool(limits),
        softmax="" if readable else "x = np.exp(x - x.max()) / np.exp(x - x.max()).sum()\n    ",
        sigmoid="" if readable else "x = 1 / (1 + np.exp(-x))\n    ",
        value="v" if readable else 'v * t["std"] + t["mean"]',
    )
    ask = _ASK.replace("{read}", read)
    return start + body + ask + _ROWS["image" if image else "tabular"]


PYTHON = Example("py", example, check_example)
