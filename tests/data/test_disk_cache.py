"""The cache of decoded pixels on disk: the same pixels as decoding, whatever happens to its files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from full_disk import full_disk
from tiny_data import write_image

from dlcli.data.base import Listed, Samples
from dlcli.data.images import reader as reader_module
from dlcli.data.images.reader import PixelReader
from dlcli.pixels.cache import disk, keys, shards
from dlcli.pixels.cache.folder import CacheFolder, disk_cache
from dlcli.pixels.decode import decode
from dlcli.task import ImageInput

SPEC = ImageInput(channels=3, height=16, width=16, resize_size=16, mean=(0, 0, 0), std=(1, 1, 1))
ROW = 16 * 16 * 3
COUNT = 20


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that were written just now count as settled."""
    monkeypatch.setattr(keys, "SETTLED_S", 0.0)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded, in order."""
    paths: list[Path] = []

    def counted(image: Path, spec: ImageInput) -> np.ndarray:
        paths.append(image)
        return decode(image, spec)

    monkeypatch.setattr(reader_module, "decode", counted)
    return paths


def samples_in(root: Path, count: int = COUNT) -> Samples:
    rng = np.random.default_rng(0)
    for i in range(count):
        if not (root / f"{i}.bmp").exists():
            write_image(root / f"{i}.bmp", rng.integers(0, 256, (20, 24, 3)))
    paths = tuple(root / f"{i}.bmp" for i in range(count))
    return Samples(tuple(path.name for path in paths), np.zeros(count, dtype=np.int64), Listed(paths))


def open_reader(samples: Samples, cache: CacheFolder | None, cache_bytes: int = 0) -> PixelReader:
    return PixelReader(samples, SPEC, workers=2, cache_bytes=cache_bytes, disk=cache)


def read_all(reader: PixelReader, count: int = COUNT) -> np.ndarray:
    (pixels,), readable = reader.read(np.arange(count))
    assert readable.tolist() == list(range(count))
    return pixels


def build(samples: Samples, cache: CacheFolder) -> np.ndarray:
    reader = open_reader(samples, cache)
    pixels = read_all(reader, len(samples))
    reader.close()
    return pixels


def of_files(samples: Samples) -> np.ndarray:
    return np.stack([decode(path, SPEC) for path in samples.items.values])


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
@pytest.mark.parametrize("writes", [True, False])
def test_pixels_are_the_same_with_any_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_bytes: int, writes: bool
) -> None:
    monkeypatch.setattr(reader_module, "_WORTH_WRITING_S", 0.0 if writes else 1e9)
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    expected = of_files(samples)
    for _ in range(2):
        reader = open_reader(samples, cache, cache_bytes)
        for indices in ([5, 3, 3, 17], [0], [], list(range(COUNT))[::-1]) * 2:
            (pixels,), readable = reader.read(np.array(indices, dtype=np.int64))
            assert readable.tolist() == indices
            assert np.array_equal(pixels, expected[indices])
        reader.close()
        assert reader.notices == []
    # What is held in memory is written only if that was worth while.
    assert (cache.size() > 0) == (writes or cache_bytes == 0)


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_a_second_run_decodes_nothing(tmp_path: Path, decoded: list[Path], cache_bytes: int) -> None:
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    expected = build(samples, cache)
    assert len(decoded) == COUNT
    assert np.array_equal(read_all(open_reader(samples, cache, cache_bytes)), expected)
    # Another split of the same photos: what is in the cache does not depend on the split.
    part = samples.take(np.array([7, 2]))
    assert np.array_equal(read_all(open_reader(part, cache), 2), expected[[7, 2]])
    assert len(decoded) == COUNT


def test_within_a_run_each_photo_is_decoded_once(tmp_path: Path, decoded: list[Path]) -> None:
    reader = open_reader(samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache"))
    first = read_all(reader)
    assert np.array_equal(read_all(reader), first)
    assert len(decoded) == COUNT


@pytest.mark.parametrize(
    "change", [{"height": 12, "width": 12}, {"resize": "squash"}, {"interpolation": "nearest"},
               {"value_range": (0.0, 9.0)}, {"resize_size": 18}]
)  # fmt: skip
def test_other_decoding_has_other_pixels(tmp_path: Path, change: dict[str, object]) -> None:
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    build(samples, cache)
    spec = SPEC.model_copy(update=change)
    reader = PixelReader(samples, spec, workers=1, cache_bytes=0, disk=cache)
    assert np.array_equal(read_all(reader), np.stack([decode(p, spec) for p in samples.items.values]))
    assert keys.decoding_key(spec) != keys.decoding_key(SPEC)
    # Normalisation happens later.
    assert keys.decoding_key(SPEC.model_copy(update={"mean": (1, 1, 1)})) == keys.decoding_key(SPEC)


def _rewrite(root: Path) -> None:
    write_image(root / "3.bmp", np.zeros((20, 24, 3)))


def _replace(root: Path) -> None:
    os.replace(write_image(root / "new.bmp", np.zeros((20, 24, 3))), root / "3.bmp")


def _exchange_folders(root: Path) -> None:
    other = root.with_name("other")
    samples_in(other)
    for i in range(COUNT):
        write_image(other / f"{i}.bmp", np.full((20, 24, 3), i))
        info = (root / f"{i}.bmp").stat()
        os.utime(other / f"{i}.bmp", ns=(info.st_atime_ns, info.st_mtime_ns))
    root.rename(root.with_name("old"))
    other.rename(root)


@pytest.mark.parametrize("change", [_rewrite, _replace, _exchange_folders])
def test_a_changed_file_has_its_new_pixels(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Also one of the same size whose time of modification was set back."""
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    old = build(samples, cache)
    info = samples.items.values[3].stat()
    time.sleep(0.02)  # more than the resolution of the system's clock
    change(tmp_path / "photos")
    os.utime(samples.items.values[3], ns=(info.st_atime_ns, info.st_mtime_ns))
    assert samples.items.values[3].stat().st_size == info.st_size
    pixels = read_all(open_reader(samples, cache))
    assert not np.array_equal(pixels[3], old[3])
    assert np.array_equal(pixels, of_files(samples))


def test_a_file_that_was_written_just_now_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "SETTLED_S", 60.0)
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    build(samples, cache)
    assert cache.size() == 0


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_a_photo_that_became_unreadable_is_left_out(tmp_path: Path, cache_bytes: int) -> None:
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    build(samples, cache)
    samples.items.values[3].unlink()
    samples.items.values[4].write_bytes(b"")
    reader = open_reader(samples, cache, cache_bytes)
    _, readable = reader.read(np.arange(COUNT))
    assert readable.tolist() == [i for i in range(COUNT) if i not in (3, 4)]
    assert set(reader.bad) == {"3.bmp", "4.bmp"}


def test_two_runs_that_build_at_once_agree(tmp_path: Path, decoded: list[Path]) -> None:
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    expected, wrong = of_files(samples), []

    def run(seed: int) -> None:
        reader = open_reader(samples, cache)
        for epoch in range(3):
            order = np.random.default_rng([seed, epoch]).permutation(COUNT)
            for batch in np.array_split(order, 5):
                (pixels,), readable = reader.read(batch)
                if not np.array_equal(pixels, expected[batch]) or len(readable) != len(batch):
                    wrong.append(batch)
            reader.flush()
        reader.close()

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    decoded.clear()
    read_all(open_reader(samples, cache))
    assert decoded == []


def test_ranks_share_what_each_has_decoded(tmp_path: Path, decoded: list[Path]) -> None:
    """Each decodes its share of the first epoch; later it reads what the other decoded."""
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    ranks = [open_reader(samples, cache) for _ in range(2)]
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(COUNT)
        for rank, reader in enumerate(ranks):
            (pixels,), _ = reader.read(order[rank::2])
            assert np.array_equal(pixels, of_files(samples)[order[rank::2]])
            reader.flush()
    assert len(decoded) == COUNT


def test_an_epoch_of_training_ends_with_complete_shards(tmp_path: Path) -> None:
    """Other processes of the run read them in the next epoch."""
    torch = pytest.importorskip("torch")
    from dlcli.training.loop.batch_plan import BatchPlan
    from dlcli.training.loop.loader import TrainBatches

    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    reader = open_reader(samples, cache)
    batches = TrainBatches(reader, BatchPlan(6), seed=0, device=torch.device("cpu"))
    assert sum(len(batch) for batch in batches.epoch(0)) == COUNT
    assert sum(file.size for file in cache.files() if file.is_complete) >= COUNT * ROW
    reader.close()


_BUILDER = """
import os, signal, sys
from pathlib import Path
import numpy as np
sys.path[:0] = [{helpers!r}, {tests!r}]
import test_disk_cache as t
t.keys.SETTLED_S = 0.0
t.disk._LEAST_SHARD_BYTES = 5 * t.ROW
reader = t.open_reader(t.samples_in(Path({photos!r})), t.CacheFolder(Path({cache!r})))
reader.read(np.arange(13))
reader._disk._writer._file.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_run_leaves_nothing_that_is_read_wrongly(tmp_path: Path, decoded: list[Path]) -> None:
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    tests = Path(__file__).parent
    code = _BUILDER.format(
        helpers=str(tests.parent / "helpers"), tests=str(tests),
        photos=str(tmp_path / "photos"), cache=str(cache.root),
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    (abandoned,) = (file for file in cache.files() if not file.is_complete)
    assert abandoned.size >= 3 * ROW
    reader = open_reader(samples, cache)
    assert np.array_equal(read_all(reader), of_files(samples))
    assert len(decoded) == COUNT - 10  # two shards of five were complete
    reader.close()
    assert abandoned.path.exists()  # it may belong to a run that has just begun it
    os.utime(abandoned.path, (0, 0))
    assert cache.make_room(0, 10**9)
    assert not abandoned.path.exists()
    assert np.array_equal(build(samples, cache), of_files(samples))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _cut_pixels(path: Path) -> None:
    path.write_bytes(path.read_bytes()[ROW:])


def _other_keys(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[COUNT * ROW] ^= 1
    path.write_bytes(data)


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[ROW // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_the_cache_is_no_shard(tmp_path: Path) -> None:
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    build(samples, cache)
    (shard,) = cache.files()
    os.mkfifo(shard.path.with_name("x.shard"))
    assert np.array_equal(build(samples, cache), of_files(samples))


@pytest.mark.parametrize("damage", [_cut, _cut_pixels, _other_keys, _flip_a_bit, Path.unlink])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_damaged_or_missing_shard_is_decoded_again(
    tmp_path: Path, damage: Callable[[Path], None], is_open: bool
) -> None:
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    build(samples, cache)
    reader = open_reader(samples, cache)
    if is_open:
        reader.read(np.arange(3))
    (shard,) = cache.files()
    damage(shard.path)
    assert np.array_equal(read_all(reader), of_files(samples))
    assert np.array_equal(build(samples, cache), of_files(samples))


@pytest.mark.parametrize(
    ("cache_bytes", "effect"), [(0, "in every epoch"), (10**9, "again in the next run")]
)
def test_a_full_disk_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_bytes: int, effect: str
) -> None:
    monkeypatch.setattr(reader_module, "_WORTH_WRITING_S", 0.0)
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    reader = open_reader(samples, cache, cache_bytes)
    with full_disk(5 * ROW):
        for _ in range(2):
            assert np.array_equal(read_all(reader), of_files(samples))
            reader.flush()
        reader.close()
    (notice,) = reader.notices
    assert notice.level == "warning"
    assert str(cache.root) in notice.message
    assert effect in notice.message
    assert cache.size() == 0


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_cache_is_read(tmp_path: Path, decoded: list[Path]) -> None:
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    build(samples.take(np.arange(10)), cache)
    (folder,) = cache.root.iterdir()
    folder.chmod(0o500)
    try:
        decoded.clear()
        reader = open_reader(samples, cache)
        assert np.array_equal(read_all(reader), of_files(samples))
        assert len(decoded) == COUNT - 10
        assert "Permission denied" in reader.notices[0].message
    finally:
        folder.chmod(0o700)


def test_a_cache_that_is_no_folder_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    samples = samples_in(tmp_path / "photos")
    reader = open_reader(samples, CacheFolder(tmp_path / "cache"))
    assert np.array_equal(read_all(reader), of_files(samples))
    assert len(reader.notices) == 1


def test_what_was_not_used_longest_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two data sets the one that was read last stays, and one that is read now always does."""
    first, second, third = (samples_in(tmp_path / name) for name in ("a", "b", "c"))
    cache = CacheFolder(tmp_path / "cache", limit=2 * COUNT * (ROW + 20) + 200)
    monkeypatch.setattr(disk, "_LEAST_SHARDS", 1)
    build(first, cache)
    build(second, cache)
    old = {file.path for file in cache.files()}
    for age, path in enumerate(sorted(old, key=lambda p: p.stat().st_mtime_ns)):
        os.utime(path, (age, age))
    reader = open_reader(first, cache)
    read_all(reader)  # now it is the second that was not used longest
    build(third, cache)
    assert cache.size() <= (cache.limit or 0)
    assert np.array_equal(read_all(reader), of_files(first))
    assert len(old & {file.path for file in cache.files()}) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows itself deletes no open file")
def test_what_is_in_use_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_LEAST_SHARDS", 1)
    first, second = (samples_in(tmp_path / name) for name in ("a", "b"))
    cache = CacheFolder(tmp_path / "cache", limit=COUNT * (ROW + 20) + 100)
    build(first, cache)
    reader = open_reader(first, cache)
    read_all(reader)
    other = open_reader(second, cache)
    assert np.array_equal(read_all(other), of_files(second))
    (notice,) = other.notices
    assert "it is full: its limit is 15.9 kB, and all of it is in use" in notice.message
    reader.close()
    assert np.array_equal(build(second, cache), of_files(second))
    assert cache.size() <= (cache.limit or 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows itself deletes no open file")
def test_a_split_larger_than_the_limit_is_cached_in_part(tmp_path: Path, decoded: list[Path]) -> None:
    """A run does not push out what it wrote itself: that would write each photo in every epoch."""
    samples = samples_in(tmp_path / "photos")
    cache = CacheFolder(tmp_path / "cache", limit=COUNT * ROW // 2)
    reader = open_reader(samples, cache)
    for epoch in range(3):
        decoded.clear()
        assert np.array_equal(read_all(reader), of_files(samples))
        assert cache.size() <= (cache.limit or 0) + ROW
        assert len(decoded) in ((20,) if epoch == 0 else range(10, 16))
    assert len(reader.notices) == 1
    reader.close()


def test_clearing_deletes_only_what_dlcli_wrote(tmp_path: Path) -> None:
    samples, cache = samples_in(tmp_path / "photos"), CacheFolder(tmp_path / "cache")
    build(samples, cache)
    size = cache.size()
    (own,) = cache.root.iterdir()
    strangers = [cache.root / "notes.txt", own / "notes.txt", cache.root / "photos" / "x.shard"]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    outside = tmp_path / "outside" / "abc.shard"
    outside.parent.mkdir()
    outside.write_text("mine")
    (cache.root / ("0" * 32)).symlink_to(outside.parent)
    (own / "link.shard").symlink_to(outside)
    reader = open_reader(samples, cache)
    expected = read_all(reader)
    assert cache.clear() == size
    assert cache.size() == 0
    assert all(path.read_text() == "mine" for path in [*strangers, outside])
    assert np.array_equal(read_all(reader), expected)  # a run goes on
    assert cache.clear() == 0
    assert CacheFolder(tmp_path / "nowhere").clear() == 0


def test_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_cache("ram", str(tmp_path), None) is None
    assert disk_cache("none", str(tmp_path), None) is None
    assert disk_cache("disk", str(tmp_path), 1.5) == CacheFolder(tmp_path, 1_500_000_000)
    free = disk_cache("auto", str(tmp_path / "not" / "there"), None)
    assert free is not None
    assert free.limit_bytes() > 0
    monkeypatch.setenv("DLCLI_CACHE", str(tmp_path / "mine"))
    assert disk_cache("auto", None, None) == CacheFolder(tmp_path / "mine" / "pixels")


def test_a_shard_is_found_among_keys_that_begin_alike(tmp_path: Path) -> None:
    """Keys are sorted by half; an equal half is not yet the same photo."""
    writer = shards.ShardWriter(tmp_path, 4)
    half = bytes(range(8))
    for i in range(3):
        writer.add(half + bytes([i]) * 8, np.full((2, 2, 1), i, dtype=np.uint8))
    writer.finish()
    index = disk._Index(tmp_path, 4)
    assert index.update()
    wanted = np.frombuffer(half + bytes([9]) * 8 + half + bytes(8), dtype=np.uint64).reshape(2, 2)
    assert index.find(wanted)[0].tolist() == [-1, 0]
