"""Images/s of a reader with each `--cache`: first epoch, later epochs, and a second run. CPU only.

    python benchmarks/decode_cache.py [--photos 2000] [--img-size 224] [--batch-size 64] [--quick]
    python benchmarks/decode_cache.py --growth 2000 20000
    python benchmarks/decode_cache.py --crops

JPEGs of 640 x 480 are generated, as noise over gradients. The first epoch of the first run decodes; the
page cache is warm. ``--growth`` prints the time an image takes with `--cache disk` as the data grows,
and the anonymous memory that reading added. ``--crops`` times the reader with `--augment standard`,
whose random crops are of whole photos, beside crops of the central square at the model's size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import interleave, machine, ratios, spread
from PIL import Image

from dlcli.config import AugmentConfig
from dlcli.data.base import Listed, Samples
from dlcli.data.images.kind import make_reader
from dlcli.data.images.reader import PixelReader
from dlcli.data.kinds import ReadOptions
from dlcli.data.prefetch import prefetch
from dlcli.pixels.cache import keys
from dlcli.pixels.cache.folder import disk_cache
from dlcli.pixels.cache.memory import CacheMode, memory_budget
from dlcli.task import ImageInput, TaskSpec
from dlcli.training.augmentation.augment import make_augment

MODES: tuple[CacheMode, ...] = ("none", "ram", "disk", "auto")


def write_photos(root: Path, count: int) -> Samples:
    """JPEGs of 640 x 480; 50 files, each of them under many names, which the cache takes for photos."""
    rng = np.random.default_rng(0)
    slopes = np.linspace(0, 160, 640)[None, :, None] + np.linspace(0, 40, 480)[:, None, None]
    contents = []
    for i in range(50):
        noise = np.kron(rng.normal(0, 15, (120, 160, 3)), np.ones((4, 4, 1)))
        path = root / f"content-{i}.jpg"
        pixels = np.clip(slopes + noise + rng.normal(0, 2, (480, 640, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=85)
        contents.append(path)
    paths = []
    for i in range(count):
        paths.append(root / f"{i}.jpg")
        paths[-1].hardlink_to(contents[i % 50])
    return Samples(
        tuple(path.name for path in paths), np.zeros(count, dtype=np.int64), Listed(tuple(paths))
    )


def epoch(reader: PixelReader, batch: int, seed: int) -> float:
    """Seconds to read the split once, in random order, a few batches ahead, as training does."""
    order = np.random.default_rng(seed).permutation(len(reader))
    parts = [order[low : low + batch] for low in range(0, len(order), batch)]
    start = time.perf_counter()
    for _ in prefetch(reader.read(part) for part in parts):
        pass
    reader.flush()
    return time.perf_counter() - start


def anonymous_mib() -> float:
    """Anonymous memory of this process; 0 where /proc does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def measure(
    samples: Samples, spec: ImageInput, mode: CacheMode, folder: Path, batch: int
) -> list[float]:
    """Images/s of the first and the third epoch, and of the first epoch of a second run."""
    speeds = []
    for run in range(2):
        reader = PixelReader(
            samples,
            spec,
            workers=None,
            cache_bytes=memory_budget(mode),
            disk=disk_cache(mode, str(folder), 1e3),
        )
        times = [epoch(reader, batch, seed) for seed in range(3 if run == 0 else 1)]
        reader.close()
        assert not reader.bad
        assert not reader.notices, reader.notices
        speeds += [len(samples) / times[0]] + ([len(samples) / times[-1]] if run == 0 else [])
    return speeds


def growth(sizes: list[int], spec: ImageInput, root: Path, batch: int) -> None:
    """Print the time of an image and the memory with `--cache disk`, by the number of photos."""
    print(f"{'photos':>8} {'first ms':>9} {'later ms':>9} {'2nd run ms':>11} {'RssAnon MiB':>12}")
    for size in sizes:
        folder = root / str(size)
        folder.mkdir()
        samples = write_photos(folder, size)
        time.sleep(keys.SETTLED_S)
        before = anonymous_mib()
        first, later, second = measure(samples, spec, "disk", root / f"cache-{size}", batch)
        added = anonymous_mib() - before
        times = [1e3 / speed for speed in (first, later, second)]
        print(
            f"{size:>8} {times[0]:>9.3f} {times[1]:>9.3f} {times[2]:>11.3f} {added:>+12.1f}", flush=True
        )


def crops(samples: Samples, spec: ImageInput, root: Path, batch: int, rounds: int) -> None:
    """Print images a second of CPU time, read and augmented by one thread, and bytes of an image."""
    task = TaskSpec(kind="classification", input=spec, class_names=("a", "b"))
    cpu = torch.device("cpu")
    augment = make_augment(
        AugmentConfig(level="standard"), task, samples=len(samples), seed=0, device=cpu
    )
    assert augment is not None
    targets = torch.zeros(batch, dtype=torch.int64)

    def rate(reader: PixelReader) -> float:
        order = np.random.default_rng(0).permutation(len(samples))
        parts = [order[low : low + batch] for low in range(0, len(order) - batch + 1, batch)]
        start = time.process_time()
        for part in parts:
            inputs, indices = reader.read(part)
            augment(tuple(map(torch.from_numpy, inputs)), targets, indices, 1)
        return len(parts) * batch / (time.process_time() - start)

    torch.set_num_threads(1)
    readers = {}
    for name, scale in (("central", None), ("whole", augment.whole_scale(spec, samples))):
        for mode in ("ram", "disk"):
            options = ReadOptions(
                cache_bytes=memory_budget(mode),
                disk=disk_cache(mode, str(root / mode), 1e3),
                whole_scale=scale,
            )
            reader = make_reader(samples, task, options)
            assert isinstance(reader, PixelReader)
            print(f"{name}, {mode}, first epoch: {rate(reader):.0f} images/s", flush=True)
            reader.flush()
            readers[f"{name}, {mode}"] = reader
    found = interleave({name: lambda r=r: rate(r) for name, r in readers.items()}, rounds)
    for name, values in found.items():
        size = readers[name].spec.height * readers[name].spec.width * spec.channels
        base = found[f"central, {name.split(', ')[1]}"]
        print(f"{name}: {spread(values)} images/s, {ratios(values, base)} x central; {size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", type=int, nargs="+", metavar="PHOTOS")
    parser.add_argument("--crops", action="store_true")
    parser.add_argument("--quick", action="store_true", help="200 photos, one round")
    args = parser.parse_args()
    size = args.img_size
    spec = ImageInput(
        channels=3,
        height=size,
        width=size,
        resize_size=round(size / 0.875),
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    with tempfile.TemporaryDirectory() as root:
        if args.growth:
            growth(args.growth, spec, Path(root), args.batch_size)
            print(machine())
            return
        samples = write_photos(Path(root), 200 if args.quick else args.photos)
        time.sleep(keys.SETTLED_S)
        rounds = 1 if args.quick else args.rounds
        if args.crops:
            crops(samples, spec, Path(root), args.batch_size, rounds)
            print(machine())
            return
        found: dict[CacheMode, list[list[float]]] = {mode: [] for mode in MODES}
        for number in range(rounds):
            for mode in MODES:
                folder = Path(root) / f"cache-{mode}-{number}"
                found[mode].append(measure(samples, spec, mode, folder, args.batch_size))
    print(f"images/s, {len(samples)} JPEGs of 640 x 480 at {size} px: median (min to max, n={rounds})")
    print(f"{'--cache':<8} {'first epoch':>24} {'third epoch':>24} {'second run, first':>24}")
    for mode, rows in found.items():
        values = np.array(rows)
        cells = [f"{np.median(v):.0f} ({v.min():.0f} to {v.max():.0f})" for v in values.T]
        print(f"{mode:<8} " + " ".join(f"{cell:>24}" for cell in cells))
    print(machine())


if __name__ == "__main__":
    main()
