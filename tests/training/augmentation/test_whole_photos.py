"""Random crops of photos show the same regions as torchvision's RandomResizedCrop of the full photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from tiny_data import write_image
from torchvision.transforms import v2
from training_runs import train_run

from dlcli.config import AugmentConfig, TrainConfig
from dlcli.data.base import DataSource, Listed, Samples
from dlcli.data.images.kind import make_reader
from dlcli.data.images.reader import PixelReader
from dlcli.data.kinds import ModelNeeds, ReadOptions
from dlcli.pixels.cache import keys
from dlcli.pixels.cache.folder import CacheFolder
from dlcli.settings import validate
from dlcli.task import ImageInput, TaskSpec
from dlcli.training.augmentation.augment import Augment, make_augment
from dlcli.training.augmentation.image_augmentation import ImageAugmentation
from dlcli.training.augmentation.sample import sample_augmented

CPU = torch.device("cpu")
SPEC = ImageInput(channels=3, height=32, width=32, resize_size=36, mean=(0, 0, 0), std=(1, 1, 1))
TASK = TaskSpec(kind="classification", input=SPEC, class_names=("a", "b"))
SHAPES = {"portrait": (160, 120), "landscape": (120, 160), "panorama": (80, 320), "tower": (300, 60)}
DRAWS = 1500


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that were written just now count as settled."""
    monkeypatch.setattr(keys, "SETTLED_S", 0.0)


def coordinates(height: int, width: int) -> np.ndarray:
    """A photo (H, W, 3) whose red is the share of the width, and green that of the height."""
    red, green = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return np.stack((red, green, np.full_like(red, 0.5)), axis=2) * 255


def write_photo(root: Path, shape: tuple[int, int]) -> Samples:
    path = write_image(root / f"{shape[0]}x{shape[1]}.png", coordinates(*shape))
    return Samples((path.name,), np.zeros(1, dtype=np.int64), Listed((path,)))


def augmentation(samples: int, **settings: float) -> Augment:
    config = AugmentConfig(flip=0, **settings)  # type: ignore[arg-type]
    made = make_augment(config, TASK, samples=samples, seed=0, device=CPU)
    assert made is not None
    return made


def regions(crops: np.ndarray) -> np.ndarray:
    """Left, right, top and bottom of crops (n, h, w, 3) of `coordinates`, as shares of the photo."""
    inner = crops[:, 4:-4, 4:-4].astype(np.float64) / 255  # without what interpolation does at borders
    edges = []
    for channel, axis in ((0, 2), (1, 1)):
        low, high = np.moveaxis(inner[..., channel].mean(axis=3 - axis), 1, 0)[[0, -1]]
        slope = (high - low) / (inner.shape[axis] - 1)
        edges += [low - 4.5 * slope, high + 4.5 * slope]
    return np.stack(edges, axis=1)


def of_torchvision(shape: tuple[int, int], scale: float) -> np.ndarray:
    photo = torch.from_numpy(coordinates(*shape)).permute(2, 0, 1).float()
    crop = v2.RandomResizedCrop((SPEC.height, SPEC.width), scale=(scale, 1), antialias=True)
    torch.manual_seed(0)
    crops = torch.stack([crop(photo) for _ in range(DRAWS)])
    return regions(crops.permute(0, 2, 3, 1).numpy())


def of_photo(samples: Samples, scale: float) -> np.ndarray:
    augment = augmentation(DRAWS, crop_scale=scale)
    reader = make_reader(samples, TASK, ReadOptions(whole_scale=augment.whole_scale(SPEC, samples)))
    inputs, _ = reader.read(np.zeros(DRAWS, dtype=np.int64))
    tensors = tuple(map(torch.from_numpy, inputs))
    (crops,), _ = augment(tensors, torch.zeros(DRAWS), np.arange(DRAWS), 0)
    assert crops.shape[1:] == (SPEC.height, SPEC.width, 3)
    return regions(crops.numpy())


@pytest.mark.parametrize("scale", [0.5, 0.08])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_regions_are_distributed_as_those_of_torchvision(
    tmp_path: Path, shape: tuple[int, int], scale: float
) -> None:
    got, expected = of_photo(write_photo(tmp_path, shape), scale), of_torchvision(shape, scale)
    for name, ours, theirs in (
        ("left", got[:, 0], expected[:, 0]),
        ("top", got[:, 2], expected[:, 2]),
        ("width", got[:, 1] - got[:, 0], expected[:, 1] - expected[:, 0]),
        ("height", got[:, 3] - got[:, 2], expected[:, 3] - expected[:, 2]),
    ):
        assert wasserstein_distance(ours, theirs) < 0.02, name  # 0.01 is chance


def test_margins_outside_of_the_central_crop_are_seen(tmp_path: Path) -> None:
    edges = of_photo(write_photo(tmp_path, (120, 160)), 0.3)
    assert edges[:, 0].min() < 0.02  # the centre begins at 0.125
    assert edges[:, 1].max() > 0.98


def test_a_whole_photo_is_its_pixels_and_its_aspect_ratio_from_any_cache(tmp_path: Path) -> None:
    shapes = list(SHAPES.values())
    paths = [write_photo(tmp_path / "photos", shape).items.values[0] for shape in shapes]
    paths.append(tmp_path / "photos" / "turned.jpg")
    with_exif(paths[0], paths[-1])
    samples = Samples(tuple(map(str, paths)), np.zeros(5, dtype=np.int64), Listed(tuple(paths)))
    everything, cache = np.arange(5), CacheFolder(tmp_path / "cache")
    expected, _ = make_reader(samples, TASK, ReadOptions(whole_scale=1.25)).read(everything)
    assert expected[0].shape == (5, 40, 40, 3)
    assert expected[1] == pytest.approx([0.75, 4 / 3, 4, 0.2, 4 / 3], rel=1e-6)
    assert abs(expected[0][:, 20, 20, :2].astype(float) - 127.5).max() < 6
    for cache_bytes in (0, 10**9, 0):
        options = ReadOptions(whole_scale=1.25, disk=cache, cache_bytes=cache_bytes)
        reader = make_reader(samples, TASK, options)
        for _ in range(2):
            inputs, readable = reader.read(everything[::-1])
            assert readable.tolist() == [4, 3, 2, 1, 0]
            for got, wanted in zip(inputs, expected, strict=True):
                assert np.array_equal(got[::-1], wanted)
        whole = reader.array()
        assert (whole is None) == (cache_bytes == 0)
        for got, wanted in zip(whole or (), expected, strict=bool(whole)):
            assert np.array_equal(got, wanted)
        reader.close()
    # Whole photos are not taken for what eval sees, nor the other way round.
    plain = make_reader(samples, TASK, ReadOptions(disk=cache))
    (pixels,), _ = plain.read(everything)
    assert isinstance(plain, PixelReader)
    assert np.array_equal(pixels, make_reader(samples, TASK, ReadOptions()).read(everything)[0][0])


def with_exif(source: Path, target: Path) -> None:
    """The same image, to be turned by 90 degrees."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(source).save(target, exif=exif, quality=95)


def test_a_crop_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (24, 40, 40, 3), dtype=np.uint8))
    aspect = torch.from_numpy(rng.uniform(0.2, 4, 24).astype(np.float32))
    augment, everything = augmentation(24, crop_scale=0.3, rotation=10), np.arange(24)
    (expected,), _ = augment((pixels, aspect), torch.zeros(24), everything, 2)
    for part in (everything[5:6], everything[[17, 5, 7]], everything[::-1].copy()):
        where = torch.from_numpy(part)
        (got,), _ = augment((pixels[where], aspect[where]), torch.zeros(len(part)), part, 2)
        assert torch.equal(got, expected[where])


def test_only_cropped_photos_are_read_whole(tmp_path: Path) -> None:
    samples = write_photo(tmp_path, (120, 160))
    assert augmentation(1, crop_scale=0.5).whole_scale(SPEC, samples) == pytest.approx((4 / 3) ** 0.5)
    assert augmentation(1, translate=0.1).whole_scale(SPEC, samples) is None
    squashed = SPEC.model_copy(update={"resize": "squash"})
    assert augmentation(1, crop_scale=0.5).whole_scale(squashed, samples) is None
    made = augmentation(1, crop_scale=0.5)
    made.own = object()  # type: ignore[assignment]
    assert made.whole_scale(SPEC, samples) is None


def test_what_is_shown_is_cropped_from_the_whole_photo(tmp_path: Path) -> None:
    samples = write_photo(tmp_path, (120, 160))
    config = validate(
        TrainConfig, {"augment": {"crop_scale": 0.3, "flip": 0}, "model": {"img_size": 32}}
    )
    source = DataSource(
        name="x", origin="x", kind="image", task="classification", splits={"train": samples},
        given=frozenset(), fingerprint="", class_names=("a", "b"), native=(3, 0, 0),
    )  # fmt: skip
    shown = sample_augmented(source, config, ModelNeeds())
    edges = np.concatenate([regions(images) for images, _ in shown.varied])
    assert shown.original[0].shape == shown.varied[0][0].shape
    assert edges[:, 0].min() < 0.115 or edges[:, 1].max() > 0.885  # outside of the centre


@pytest.mark.parametrize(
    "frozen",
    [
        {},
        {"fit": {"swa": 0.5}},
        {"model": {"freeze": "backbone"}, "fit": {"cache_features": "on", "feature_copies": 2}},
    ],
    ids=["plain", "swa", "features"],
)
def test_training_crops_whole_photos_and_the_rest_sees_the_centre(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    for label in "ab":
        for number in range(8):
            pixels = coordinates(60, 120) + rng.normal(0, 20, (60, 120, 3))
            write_image(tmp_path / "data" / label / f"{number}.png", pixels)
    (tmp_path / "data" / "a" / "broken.png").write_bytes(b"no image")
    seen: list[tuple[Any, ...]] = []
    plain = ImageAugmentation.__call__

    def recorded(self: ImageAugmentation, pixels: torch.Tensor, *more: Any) -> Any:
        seen.append((tuple(pixels.shape[1:]), more[-1].unique().tolist()))
        return plain(self, pixels, *more)

    monkeypatch.setattr(ImageAugmentation, "__call__", recorded)
    run = train_run(
        tmp_path / "runs",
        "run",
        {
            "data": {"data": str(tmp_path / "data"), "cache": "ram"},
            "model": {"name": "cnn", "img_size": 32, "args": {"widths": [8, 8]}},
            "augment": {"level": "standard"},
            "fit": {"epochs": 2, "batch_size": 4, "device": "cpu", "amp": "none"},
        },
        frozen,
    )
    assert run.read_record()["status"] == "finished"
    assert len(run.read_record()["bad_samples"]) == 1
    assert set(map(str, seen)) == {"((37, 37, 3), [2.0])"}
