"""How many wrong labels are in the first tenth of what ``train --folds`` lists.

    python benchmarks/label_issues.py DATA_ROOT [--share 0.05] [--folds 3] [--seeds 1] [--only NAME ...]

DATA_ROOT holds trec and fashion_mnist, as their publishers give them; of the second the first 10,000
training images are used. A share of the labels is replaced by another class, drawn uniformly; the list
is the label-issues.csv of a cross-validation of `cnn`. Prints, for each data set and seed, the share of
the replaced labels that are among the first tenth of the samples as the list ranks them.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import machine

IMAGES = 10_000


def replaced(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels with a share of them replaced, and which."""
    rng, classes = np.random.default_rng(seed), np.unique(labels)
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    out = labels.copy()
    for i in wrong:
        out[i] = rng.choice(classes[classes != labels[i]])
    return out, wrong


def write_trec(root: Path, out: Path, share: float, seed: int) -> tuple[Path, set[str], int]:
    """A table of the training questions; its path, the ids of wrong labels, and how many questions."""
    lines = (root / "trec/TREC.train.all").read_text(encoding="latin-1").splitlines()
    labels, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    new, wrong = replaced(np.array(labels), share, seed)
    path = out / "trec.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, new.tolist(), strict=True)])
    return path, {str(i) for i in wrong.tolist()}, len(texts)


def write_fashion(root: Path, out: Path, share: float, seed: int) -> tuple[Path, set[str], int]:
    """An archive of images; as `write_trec`."""
    folder = root / "fashion_mnist"
    images = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    x = np.frombuffer(images, np.uint8).reshape(-1, 28, 28)[:IMAGES]
    new, wrong = replaced(np.frombuffer(labels, np.uint8).astype(np.int64)[:IMAGES], share, seed)
    path = out / "fashion.npz"
    np.savez(path, x=x, y=new)
    return path, {str(i) for i in wrong.tolist()}, len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["trec", "fashion"])
    args = parser.parse_args()
    print(machine(), flush=True)
    for name in args.only:
        write = {"trec": write_trec, "fashion": write_fashion}[name]
        for seed in range(args.seeds):
            with tempfile.TemporaryDirectory() as folder:
                path, wrong, samples = write(args.root, Path(folder), args.share, seed)
                command = f"train --model cnn --data {path} --folds {args.folds} --seed {seed} --quiet"
                where = ["--runs-dir", folder, "--name", "folds", "--device", "cpu"]
                subprocess.run([sys.executable, "-m", "dlcli", *command.split(), *where], check=True)
                with (Path(folder) / "folds/label-issues.csv").open(encoding="utf-8") as file:
                    listed = [row["input"] for row in csv.DictReader(file)]
            first = {id_.replace(":", "/").rpartition("/")[2] for id_ in listed[: samples // 10]}
            share = len(wrong & first) / len(wrong)
            print(f"{name}, seed {seed}: {share:.3f} of {len(wrong)}", flush=True)


if __name__ == "__main__":
    main()
