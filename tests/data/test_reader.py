"""Decoding lazily, in threads, with and without a cache, and what becomes of bad samples."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlcli.config import DataConfig
from dlcli.data.base import Listed, Samples, Stacked
from dlcli.data.images import reader as reader_module
from dlcli.data.images.reader import PixelReader
from dlcli.data.sources import open_source
from dlcli.errors import DlcliError
from dlcli.pixels.cache.memory import container_free, memory_budget
from dlcli.pixels.decode import decode
from dlcli.task import ImageInput

SPEC = ImageInput(channels=3, height=16, width=16, resize_size=16, mean=(0, 0, 0), std=(1, 1, 1))
Make = Callable[..., Path]


def paths_of(samples: Samples) -> tuple[Path, ...]:
    assert isinstance(samples.items, Listed)
    return samples.items.values


def pixels_of(samples: Samples) -> np.ndarray:
    assert isinstance(samples.items, Stacked)
    return samples.items.values


def photos(root: Path, break_some: bool = False) -> Samples:
    paths = sorted(root.rglob("*.jpg"))
    if break_some:
        paths[2].write_bytes(b"")
        paths[5].write_bytes(paths[5].read_bytes()[:200])
    ids = tuple(path.relative_to(root).as_posix() for path in paths)
    return Samples(ids=ids, targets=np.arange(len(paths)), items=Listed(tuple(paths)))


def raw(n: int = 20, size: int = 16, channels: int = 3) -> Samples:
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    return Samples(tuple(f"train/{i}" for i in range(n)), np.zeros(n, dtype=np.int64), Stacked(pixels))


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
@pytest.mark.parametrize("workers", [1, 3, None])
def test_pixels_come_in_the_order_requested(
    photo_folder: Make, cache_bytes: int, workers: int | None
) -> None:
    samples = photos(photo_folder())
    reader = PixelReader(samples, SPEC, workers=workers, cache_bytes=cache_bytes)
    whole = np.stack([decode(path, SPEC) for path in paths_of(samples)])
    for indices in ([5, 3, 3, 17], [0], [], list(range(18))[::-1]):
        where = np.array(indices, dtype=np.int64)
        (pixels,), kept = reader.read(where)
        assert np.array_equal(kept, where)
        assert np.array_equal(pixels, whole[where])
        assert pixels.flags.writeable
    assert reader.bad == {}
    reader.close()


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_bad_samples_are_left_out_and_named(photo_folder: Make, cache_bytes: int) -> None:
    samples = photos(photo_folder(), break_some=True)
    reader = PixelReader(samples, SPEC, workers=2, cache_bytes=cache_bytes)
    for _ in range(2):
        (pixels,), kept = reader.read(np.array([5, 1, 2, 4, 1], dtype=np.int64))
        assert kept.tolist() == [1, 4, 1]
        assert len(pixels) == 3
        assert np.array_equal(pixels[0], pixels[2])
    assert set(reader.bad) == {samples.ids[2], samples.ids[5]}
    assert reader.bad[samples.ids[2]] == "the file is empty (0 bytes)"
    assert "truncated" in reader.bad[samples.ids[5]].lower()
    (pixels,), kept = reader.read(np.array([2, 5], dtype=np.int64))
    assert pixels.shape == (0, 16, 16, 3)
    assert not len(kept)
    assert reader.array() is None


@pytest.mark.parametrize("workers", [1, 2])
def test_fail_names_the_file(photo_folder: Make, workers: int) -> None:
    samples = photos(photo_folder(), break_some=True)
    reader = PixelReader(samples, SPEC, workers=workers, cache_bytes=0, on_bad_sample="fail")
    with pytest.raises(DlcliError) as info:
        reader.read(np.arange(4))
    assert info.value.message == f"cannot read {paths_of(samples)[2]}: the file is empty (0 bytes)"
    assert "--on-bad-sample skip" in str(info.value.hint)


def test_a_cached_sample_is_decoded_once_and_a_streamed_one_each_time(
    photo_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def counted(image: Path, spec: ImageInput) -> np.ndarray:
        seen.append(image)
        return decode(image, spec)

    monkeypatch.setattr(reader_module, "decode", counted)
    samples = photos(photo_folder())
    for cache_bytes, times in ((18 * 16 * 16 * 3, 18), (18 * 16 * 16 * 3 - 1, 36)):
        seen.clear()
        reader = PixelReader(samples, SPEC, workers=2, cache_bytes=cache_bytes)
        for _ in range(2):
            reader.read(np.arange(18))
        assert len(seen) == times


def test_the_array_of_photos_is_there_once_all_are_read(photo_folder: Make) -> None:
    reader = PixelReader(photos(photo_folder()), SPEC, workers=2, cache_bytes=10**9)
    reader.read(np.arange(17))
    assert reader.array() is None
    (pixels,), _ = reader.read(np.arange(18))
    whole = reader.array()
    assert whole is not None
    assert np.array_equal(whole[0], pixels)
    assert PixelReader(photos(photo_folder(name="b")), SPEC, workers=2, cache_bytes=0).array() is None


def test_raw_arrays_of_the_right_size_are_not_copied() -> None:
    samples = raw()
    whole = PixelReader(samples, SPEC, workers=None, cache_bytes=0).array()
    assert whole is not None
    assert whole[0] is pixels_of(samples)


@pytest.mark.parametrize(("size", "channels"), [(8, 3), (16, 1)])
def test_other_raw_arrays_are_resized_at_once_where_memory_allows(size: int, channels: int) -> None:
    samples = raw(size=size, channels=channels)
    whole = PixelReader(samples, SPEC, workers=2, cache_bytes=10**9).array()
    assert whole is not None
    assert np.array_equal(whole[0], np.stack([decode(p, SPEC) for p in pixels_of(samples)]))
    assert PixelReader(samples, SPEC, workers=2, cache_bytes=0).array() is None


def test_a_cut_border_is_cut_from_raw_arrays_too() -> None:
    wide = SPEC.model_copy(update={"resize_size": 32})
    samples = raw()
    whole = PixelReader(samples, wide, workers=1, cache_bytes=10**9).array()
    assert whole is not None
    assert not np.array_equal(whole[0], pixels_of(samples))


def test_a_split_larger_than_memory_is_only_a_list() -> None:
    n = 50_000
    paths = tuple(Path(f"/nowhere/{i}.jpg") for i in range(n))
    samples = Samples(tuple(map(str, paths)), np.zeros(n, dtype=np.int64), Listed(paths))
    large = SPEC.model_copy(update={"height": 4096, "width": 4096, "resize_size": 4096})
    reader = PixelReader(samples, large, workers=1, cache_bytes=10**9)
    (pixels,), kept = reader.read(np.arange(3))
    assert len(pixels) == len(kept) == 0
    assert len(reader.bad) == 3


def test_budgets() -> None:
    import psutil

    assert memory_budget("none") == memory_budget("disk") == 0
    assert memory_budget("ram") == sys.maxsize
    assert 0 <= memory_budget("auto") <= 0.4 * psutil.virtual_memory().total


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    free = container_free
    assert free(tmp_path) is None
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 50\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert free(tmp_path) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert free(tmp_path) is None


def test_a_source_reads_end_to_end(photo_folder: Make) -> None:
    source = open_source(DataConfig(data=str(photo_folder())), seed=0)
    reader = PixelReader(source.splits["train"], SPEC, workers=2, cache_bytes=0)
    (pixels,), kept = reader.read(np.arange(len(reader)))
    # The fixture's classes are blue, green, red, drawn in channel 0, 1, 2.
    brightest = pixels.mean(axis=(1, 2)).argmax(axis=1)
    assert np.array_equal(brightest, source.splits["train"].targets[kept])
