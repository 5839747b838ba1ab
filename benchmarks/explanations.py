"""Whether heat maps point at what the model uses: deletion and insertion against random and edge maps.

    python benchmarks/explanations.py MODEL DATA [--images 40] [--steps 10] [--seed 0]

MODEL is a trained image classifier (a run or a model file), DATA a folder of class folders, such as the
test split. Pixels are ordered by each map, the hottest first. Deletion replaces them by the image's
mean colour, insertion puts them into a blurred image; both curves are the probability of the predicted
class, and a map is scored by the area under the insertion curve minus that under the deletion curve
(Petsiuk et al., "RISE", arXiv:1806.07421). Random maps are 7 x 7 numbers, as smooth as those of
Grad-CAM; edge maps are the gradient of the grey image, blurred. Prints the mean of each map and the
paired differences from random and edges with 95 % intervals (bootstrap over images).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import machine
from PIL import Image, ImageFilter

from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.evaluation.explanations import Explainer
from dlcli.evaluation.probabilities import softmax
from dlcli.formats.base import Artifact, open_artifact
from dlcli.runs.folder import DEFAULT_ROOT, find_artifact


def smooth(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(values.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image)


def edges(pixels: np.ndarray) -> np.ndarray:
    down, right = np.gradient(pixels.mean(axis=2))
    strength = np.hypot(down, right)
    grey = Image.fromarray((255 * strength / max(strength.max(), 1e-6)).astype(np.uint8))
    return np.asarray(grey.filter(ImageFilter.GaussianBlur(pixels.shape[0] / 28)), np.float32)


def areas(model: Artifact, pixels: np.ndarray, heat: np.ndarray, target: int, steps: int) -> float:
    """The area under the insertion curve minus that under the deletion curve."""
    order = np.argsort(-heat.ravel(), kind="stable")
    grey = pixels.reshape(-1, pixels.shape[2]).mean(axis=0).round().astype(np.uint8)
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(pixels.shape[0] / 16)))
    batch = []
    for share in np.linspace(0, 1, steps + 1):
        hot = np.zeros(heat.size, bool)
        hot[order[: round(share * heat.size)]] = True
        mask = hot.reshape(*heat.shape, 1)
        batch += [np.where(mask, grey, pixels), np.where(mask, pixels, blurred)]
    probabilities = softmax(model.predict((np.stack(batch),)))[:, target]
    return float(np.trapezoid(probabilities[1::2] - probabilities[::2], dx=1 / steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(machine(), flush=True)
    model = open_artifact(find_artifact(args.model, Path(DEFAULT_ROOT)), device="cpu")
    task, rng = model.card.task, np.random.default_rng(args.seed)
    samples = kind_of(task).inputs([args.data], task)
    reader = kind_of(task).reader(samples, task, ReadOptions())
    explainers = {name: Explainer(model, method=name) for name in ("gradcam", "occlusion")}
    scores: dict[str, list[float]] = {name: [] for name in (*explainers, "random", "edges")}
    for index in rng.permutation(len(samples))[: args.images].tolist():
        maps = {}
        for name, explainer in explainers.items():
            one = explainer.explain(reader, index)
            assert one is not None
            maps[name], pixels = one.heat, one.pixels
        maps["random"] = smooth(rng.random((7, 7)), pixels.shape[:2])
        maps["edges"] = edges(pixels)
        target = task.class_names.index(one.target)
        for name, heat in maps.items():
            scores[name].append(areas(model, pixels, heat, target, args.steps))
    print(
        f"{args.model} on {args.data}, n={len(scores['random'])} images, {args.steps} steps, "
        f"seed {args.seed}"
    )
    columns = {name: np.array(values) for name, values in scores.items()}
    for name, values in columns.items():
        std = values.std(ddof=1)
        print(f"{name:10} insertion - deletion {values.mean():.3f} (std over images {std:.3f})")
    for name in explainers:
        for other in ("random", "edges"):
            difference = columns[name] - columns[other]
            means = rng.choice(difference, (10_000, len(difference))).mean(axis=1)
            low, high = np.quantile(means, (0.025, 0.975))
            better = (difference > 0).mean()
            print(
                f"{name} - {other}: {difference.mean():+.3f} ({low:+.3f} to {high:+.3f}), "
                f"better on {better:.0%} of the images"
            )


if __name__ == "__main__":
    main()
