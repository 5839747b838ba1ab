"""The data that commands of documents and of ``--help`` name, and what makes these commands small."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from foreign import image_file, regressor_file
from PIL import Image

# What makes a command small: words of a page, and what the test puts in their place.
SMALLER = {
    "resnet18": "cnn",
    "dlcli train": "dlcli train --epochs 1 --batch-size 8",
    "--data digits": "--data digits --batch-size 300",
    "dlcli prune": "dlcli prune --epochs 1 --no-latency",
    "dlcli quantize": "dlcli quantize --no-latency",
    "dlcli ship": "dlcli ship --epochs 1 --no-latency --max-size 9GB",  # it ends with the first attempt
    "dlcli benchmark": "dlcli benchmark --batch-sizes 1",
    "--trials 20": "--trials 2 --epochs 1",
    "--epochs 30": "--epochs 1",
    # Data of tutorials, which is not tiny.
    r"--batch-size 8 (--model \w+ --data (load|rents|shapes|messages|waves|pairs))": (
        r"--batch-size 64 \1"
    ),
}
# A model of one epoch may miss a bound, and a machine CUDA: README promises exit code 3.
BOUNDS = ("--min", "--max-drop", "--require", "dlcli ship")


def write_data(root: Path) -> None:
    """Write photos in class folders, a table of numbers and one of texts."""
    rng = np.random.default_rng(0)
    for channel, label in enumerate(("blue", "green", "red")):
        for folder, count in ((f"imgs/{label}", 12), (f"new/{label}", 1)):
            (root / folder).mkdir(parents=True)
            for i in range(count):
                pixels = rng.normal(60, 20, (40, 48, 3))
                pixels[..., channel] += 120
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(root / folder / f"{i}.jpg")
    (root / "some").mkdir()
    (root / "new/red/0.jpg").rename(root / "some/photo.jpg")
    rooms, area = rng.integers(1, 9, 80), rng.normal(100, 20, 80)
    prices = 30 * rooms + area + rng.normal(0, 5, 80)
    rows = [f"{r},{a:.1f},{p:.1f}" for r, a, p in zip(rooms, area, prices, strict=True)]
    (root / "houses.csv").write_text("rooms,area,price\n" + "\n".join(rows) + "\n")
    image_file(root / "their.onnx", side=16, batch=1, classes=3)
    (root / "names.txt").write_text("blue\ngreen\nred\n")
    regressor_file(root / "forest.onnx")
    subjects = {"card": "where is my card number", "cash": "how do I get cash at shop"}
    texts = [f"{text} {i}?,{label}" for i in range(30) for label, text in subjects.items()]
    (root / "questions.csv").write_text("text,label\n" + "\n".join(texts) + "\n")


def smaller(line: str) -> str:
    for words, small in SMALLER.items():
        line = re.sub(rf"{words}\b", small, line)
    return line
