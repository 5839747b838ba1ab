"""JPEG files to pixels of a model: `pixels/decode.py` (Pillow) beside other decoders, by CPU time.

    python benchmarks/jpeg_decoders.py PHOTO_FOLDER [--img-size 224] [--count 100] [--rounds 7]

All end in the same crop and resize of Pillow. Below each other: the folder's photos, and the same
enlarged to 1600 x 1200 and 4000 x 3000, where all but torchvision decode at a reduced scale. simplejpeg
(``pip install simplejpeg``) is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from common import interleave, machine, ratios, spread
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from dlcli.pixels.decode import Pixels, decode, resize
from dlcli.pixels.opening import open_image, opened, orientation, reduce, upright
from dlcli.task import ImageInput

Decode = Callable[[Path], Pixels]


def by_simplejpeg(path: Path, spec: ImageInput, *, fast: bool) -> Pixels:
    """The header and scale of Pillow, the pixels of simplejpeg."""
    import simplejpeg

    with opened(path) as file, open_image(file) as image:
        full = image.size
        reduce(image, spec)
        file.seek(0)
        pixels = simplejpeg.decode_jpeg(
            file.read(),
            "RGB",
            fastdct=fast,
            fastupsample=fast,
            min_width=image.size[0],
            min_height=image.size[1],
            min_factor=1 if image.size == full else 2,
        )
        assert pixels.shape[1::-1] == image.size
        return resize(upright(Image.fromarray(pixels), orientation(image)), spec)


def by_torchvision(path: Path, spec: ImageInput) -> Pixels:
    """The whole file, at its full size."""
    data = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    pixels = decode_jpeg(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return resize(Image.fromarray(pixels.permute(1, 2, 0).numpy()), spec)


def measure(paths: Sequence[Path], decoders: dict[str, Decode], rounds: int) -> None:
    """Print photos/s of CPU time, and by how much pixels differ from those of Pillow."""

    def rate(decoder: Decode) -> float:
        start = time.process_time()
        for path in paths:
            decoder(path)
        return len(paths) / (time.process_time() - start)

    reference = [decoders["pillow"](path).astype(int) for path in paths]
    found = interleave({name: partial(rate, one) for name, one in decoders.items()}, rounds)
    for name, values in found.items():
        pairs = zip(paths, reference, strict=True)
        apart = [np.abs(decoders[name](path) - expected) for path, expected in pairs]
        largest, mean = max(d.max() for d in apart), np.mean([d.mean() for d in apart])
        print(
            f"{name}: {spread(values)} photos/s, {ratios(values, found['pillow'])} x pillow; "
            f"pixels differ by at most {largest}, {mean:.2f} in the mean"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = args.img_size
    spec = ImageInput(
        channels=3, height=size, width=size, resize_size=size, mean=(0, 0, 0), std=(1, 1, 1)
    )
    decoders: dict[str, Decode] = {
        "pillow": partial(decode, spec=spec),
        "torchvision": partial(by_torchvision, spec=spec),
    }
    if find_spec("simplejpeg"):
        decoders["simplejpeg"] = partial(by_simplejpeg, spec=spec, fast=False)
        decoders["simplejpeg, fast"] = partial(by_simplejpeg, spec=spec, fast=True)
        print(f"simplejpeg {version('simplejpeg')}")
    paths = sorted(Path(args.photos).rglob("*.jpg"))
    paths = paths[:: max(1, len(paths) // args.count)]
    with tempfile.TemporaryDirectory() as root:
        print(f"{len(paths)} photos of the folder at {size} px")
        measure(paths, decoders, args.rounds)
        for large, share in (((1600, 1200), 4), ((4000, 3000), 12)):
            enlarged = []
            for path in paths[::share]:
                enlarged.append(Path(root) / f"{large[0]}-{len(enlarged)}.jpg")
                Image.open(path).convert("RGB").resize(large).save(enlarged[-1], quality=90)
            print(f"{len(enlarged)} photos of {large[0]} x {large[1]} at {size} px")
            measure(enlarged, decoders, args.rounds)
    print(machine())


if __name__ == "__main__":
    main()
