"""Data sets by name: tiny copies in the real layouts, hostile copies, and no network."""

from __future__ import annotations

import gzip
import pickle
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlcli.config import DataConfig
from dlcli.data.base import DataSource, Samples, Stacked
from dlcli.data.notices import messages
from dlcli.data.sets import download
from dlcli.data.sets.cifar import _CLASSES_100, CIFARS, read_pickle
from dlcli.data.sets.named import DATASETS, NamedSet, find_name
from dlcli.data.sources import open_other, open_source
from dlcli.errors import DlcliError
from dlcli.task import ImageInput, TaskSpec

FASHION = "T-shirt/top"


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a failure where the network would be asked."""

    def refuse(url: str, **values: object) -> None:
        raise AssertionError(f"the network was asked for {url}")

    monkeypatch.setattr(download, "require", refuse)
    monkeypatch.setenv("DLCLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels_of(samples: Samples) -> np.ndarray:
    assert isinstance(samples.items, Stacked)
    return samples.items.values


def digits(names: str) -> TaskSpec:
    image = ImageInput(channels=1, height=8, width=8, resize_size=8, mean=(0,), std=(1,))
    return TaskSpec(input=image, class_names=tuple(names))


def named(name: str, data_dir: Path | None = None, **values: object) -> DataSource:
    given = {"data": name, "data_dir": None if data_dir is None else str(data_dir), **values}
    return open_source(DataConfig.model_validate(given), seed=0)


# ---- digits


def test_digits_are_scikit_learn_s(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    source = named("digits")
    assert (source.name, source.origin, source.native) == ("digits", "digits", (1, 8, 8))
    assert source.class_names == tuple("0123456789")
    assert source.given == frozenset()
    bunch = load_digits()
    expected = {f"all/{i}": (bunch.images[i], bunch.target[i]) for i in range(1797)}
    count = 0
    for part in source.splits.values():
        assert pixels_of(part).shape[1:] == (8, 8, 1)
        assert pixels_of(part).max() == 255
        for id_, pixels, target in zip(part.ids, pixels_of(part), part.targets, strict=True):
            image, label = expected.pop(id_)
            assert np.array_equal(pixels[..., 0], np.rint(image * 255 / 16))
            assert target == label
            count += 1
    assert count == 1797


def test_a_registered_name_has_priority_over_a_folder(
    photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photo_folder(name="digits")
    monkeypatch.chdir(root.parent)
    source = named("digits")
    assert source.native == (1, 8, 8)
    assert messages(source.notices) == [
        "digits means the data set of that name; write ./digits for the folder"
    ]
    assert named("./digits").class_names == ("blue", "green", "red")


def test_no_data_set_needs_torch_to_be_listed() -> None:
    import subprocess

    code = (
        "import sys; from dlcli.data.sets.named import DATASETS; names = DATASETS.names();"
        "import dlcli.data.sources, dlcli.data.images.reader, dlcli.network;"
        "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules or len(names) < 20)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_are_found_in_any_spelling() -> None:
    assert find_name("FashionMNIST") == find_name("fashion_mnist") == "fashion-mnist"
    assert find_name("CIFAR-10") == "cifar10"
    assert find_name("Flowers-102") == "flowers102"
    assert find_name("nothing") is None
    promised = {
        "mnist",
        "fashion-mnist",
        "kmnist",
        "emnist",
        "cifar10",
        "cifar100",
        "svhn",
        "flowers102",
    }
    assert promised | {"food101", "oxford-pets", "stl10"} <= set(DATASETS.names())


# ---- the idx family


def idx(values: np.ndarray, code: int = 8) -> bytes:
    head = bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.tobytes()


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 5), dtype=np.uint8)


def labels(n: int, classes: int = 10) -> np.ndarray:
    return (np.arange(n) % classes).astype(np.uint8)


def write_idx(
    folder: Path, *, stems: tuple[str, str] = ("train", "t10k"), gz: bool, **values: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (stem, n) in enumerate(zip(stems, (40, 20), strict=True)):
        for kind, content in (
            ("images-idx3-ubyte", idx(images(n, seed))),
            ("labels-idx1-ubyte", idx(labels(n, **values))),
        ):
            if gz:
                (folder / f"{stem}-{kind}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / f"{stem}-{kind}").write_bytes(content)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("below", ["FashionMNIST/raw", "raw", ".", "FashionMNIST"])
def test_a_named_set_is_found_in_every_layout(gz: bool, below: str, tmp_path: Path) -> None:
    write_idx(tmp_path / "d" / below, gz=gz)
    source = named("fashion-mnist", tmp_path / "d")
    assert source.class_names[0] == FASHION
    assert source.given == {"train", "test"}
    assert source.native == (1, 6, 5)
    assert source.data_dir == str(tmp_path / "d")
    assert source.origin == "fashion-mnist"
    assert {name: len(part) for name, part in source.splits.items()} == {
        "train": 30,
        "val": 10,
        "test": 20,
    }
    test = source.splits["test"]
    assert np.array_equal(pixels_of(test)[..., 0], images(20, 1))
    assert test.ids[:2] == ("test/0", "test/1")
    assert np.array_equal(test.targets, labels(20))
    everything = {**dict.fromkeys(source.splits["train"].ids), **dict.fromkeys(source.splits["val"].ids)}
    assert sorted(everything) == sorted(f"train/{i}" for i in range(40))


@pytest.mark.parametrize(
    ("folder", "first", "name"),
    [("fashion_mnist", FASHION, "fashion-mnist"), ("KMNIST", "o", "kmnist"), ("numbers", "0", "mnist")],
)
def test_an_unnamed_folder_of_idx_files_is_known_by_its_path(
    folder: str, first: str, name: str, tmp_path: Path
) -> None:
    write_idx(tmp_path / folder, gz=True)
    source = named(str(tmp_path / folder))
    assert source.class_names[0] == first
    assert source.name == name
    assert source.origin == str(tmp_path / folder)


def test_torchvision_s_root_of_one_set_and_of_two(tmp_path: Path) -> None:
    write_idx(tmp_path / "d" / "FashionMNIST" / "raw", gz=False)
    assert named(str(tmp_path / "d")).class_names[0] == FASHION
    write_idx(tmp_path / "d" / "MNIST" / "raw", gz=False)
    assert named("mnist", tmp_path / "d").class_names[0] == "0"
    with pytest.raises(DlcliError, match="holds several data sets: fashion-mnist, mnist") as info:
        named(str(tmp_path / "d"))
    assert f"--data fashion-mnist --data-dir {tmp_path / 'd'}" in str(info.value.hint)


def test_emnist_images_stand_upright_and_letters_begin_at_one(tmp_path: Path) -> None:
    stems = ("emnist-letters-train", "emnist-letters-test")
    write_idx(tmp_path / "raw", stems=stems, gz=True)
    for stem, n in zip(stems, (40, 20), strict=True):
        content = idx((1 + np.arange(n) % 26).astype(np.uint8))
        (tmp_path / "raw" / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    source = named("emnist-letters", tmp_path)
    test = source.splits["test"]
    assert source.class_names[:2] == ("a", "b")
    assert len(source.class_names) == 26
    assert np.array_equal(pixels_of(test)[..., 0], images(20, 1).swapaxes(1, 2))
    assert test.targets[:3].tolist() == [0, 1, 2]


def test_qmnist_labels_are_the_first_column(tmp_path: Path) -> None:
    for split, n in (("train", 30), ("test", 10)):
        rows = np.zeros((n, 8), dtype=">i4")
        rows[:, 0] = np.arange(n) % 10
        rows[:, 2] = 4_000
        (tmp_path / f"qmnist-{split}-images-idx3-ubyte").write_bytes(idx(images(n)))
        (tmp_path / f"qmnist-{split}-labels-idx2-int").write_bytes(idx(rows, 12))
    assert named("qmnist", tmp_path).splits["test"].targets.tolist() == list(range(10))


def test_damaged_pairs_are_named(tmp_path: Path) -> None:
    write_idx(tmp_path, gz=False)
    file = tmp_path / "t10k-labels-idx1-ubyte"
    whole = file.read_bytes()
    file.write_bytes(idx(labels(19)))
    with pytest.raises(DlcliError, match="20 images but 19 labels in test"):
        named("mnist", tmp_path)
    pixels = tmp_path / "t10k-images-idx3-ubyte"
    photos = pixels.read_bytes()
    file.write_bytes(idx(labels(0)))
    pixels.write_bytes(idx(images(20)[:0]))
    with pytest.raises(DlcliError, match="no pixels in test"):
        named("mnist", tmp_path)
    pixels.write_bytes(photos)
    file.write_bytes(idx(labels(20, 12)))
    with pytest.raises(DlcliError, match="labels of test range from 0 to 11, but there are 10 classes"):
        named("mnist", tmp_path)
    file.write_bytes(idx(images(20)))
    with pytest.raises(DlcliError, match="has 3-dimensional uint8, not labels"):
        named("mnist", tmp_path)
    file.unlink()
    with pytest.raises(DlcliError, match=r"lacks t10k-labels-idx1-ubyte\[\.gz\]"):
        named("mnist", tmp_path)
    file.write_bytes(whole)
    first = named("mnist", tmp_path).fingerprint
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images(20, 9)))
    assert named("mnist", tmp_path).fingerprint != first


def test_other_data_by_name_keeps_its_splits(tmp_path: Path) -> None:
    write_idx(tmp_path, gz=False)
    config = DataConfig(data="mnist", data_dir=str(tmp_path))
    source = open_other(config, digits("9876543210"))
    assert list(source.splits) == ["train", "test"]
    assert source.splits["test"].targets[:3].tolist() == [9, 8, 7]
    with pytest.raises(
        DlcliError, match="does not know: T-shirt/top, Trouser, Pullover, Dress, Coat, and 5 more"
    ):
        open_other(DataConfig(data="fashion-mnist", data_dir=str(tmp_path)), digits("0123456789"))


# ---- CIFAR, SVHN, STL-10


def cifar_rows(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 3072), dtype=np.uint8)


def write_cifar(root: Path, name: str, version: str, protocol: int = 2) -> None:
    entry = CIFARS[name]
    folder = root / entry.folders[version]
    folder.mkdir(parents=True)
    for files in entry.batches.values():
        for file in files:
            rows, marks = cifar_rows(20), labels(20)
            if version == "py":
                batch = {"data": rows, entry.label_key: marks.tolist(), "batch_label": "x"}
                (folder / file).write_bytes(pickle.dumps(batch, protocol=protocol))
            else:
                columns = [marks[:, None]] * entry.label_bytes
                (folder / f"{file}.bin").write_bytes(np.concatenate([*columns, rows], axis=1).tobytes())


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize(("version", "protocol"), [("py", 2), ("py", 4), ("bin", 0)])
def test_cifar_of_every_version(name: str, version: str, protocol: int, tmp_path: Path) -> None:
    write_cifar(tmp_path, name, version, protocol)
    source = named(name, tmp_path)
    assert source.native == (3, 32, 32)
    assert len(source.class_names) == (10 if name == "cifar10" else 100)
    test = source.splits["test"]
    expected = cifar_rows(20).reshape(20, 3, 32, 32).transpose(0, 2, 3, 1)
    assert np.array_equal(pixels_of(test), expected)
    assert np.array_equal(test.targets, labels(20))
    assert named(str(tmp_path)).name == name
    assert named(name, tmp_path / CIFARS[name].folders[version]).fingerprint == source.fingerprint


def test_an_old_python_s_pickle_of_cifar(tmp_path: Path) -> None:
    """The published files were written by Python 2: their array bytes are old-style strings."""
    raw = cifar_rows(1).tobytes()
    stream = (
        b"\x80\x02}q\x00(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(raw))
        + raw
        + b"tbU\x06labels]K\x03au."
    )
    assert np.array_equal(pickle.loads(stream, encoding="latin1")["data"], cifar_rows(1))
    (tmp_path / "data_batch_1").write_bytes(stream)
    found = read_pickle(tmp_path / "data_batch_1")
    assert np.array_equal(found["data"], cifar_rows(1))
    assert found["labels"] == [3]


def test_the_hundred_names_of_cifar100() -> None:
    assert len(set(_CLASSES_100)) == 100
    assert list(_CLASSES_100) == sorted(_CLASSES_100)


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_cifar_pickle_runs_nothing(protocol: int, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    write_cifar(tmp_path, "cifar10", "py")
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(pickle.dumps({"data": Hostile(target), "labels": []}, protocol=protocol))
    with pytest.raises(DlcliError, match="which no CIFAR file does; nothing was executed"):
        named("cifar10", tmp_path)
    assert not target.exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"\x80\x04\x8c\x05numpy\x94\x8c\x0endarray.tofile\x94\x93.",
        b"P1\n.",
    ],
)
def test_every_other_name_is_refused(stream: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(stream)
    with pytest.raises(DlcliError, match="refers to"):
        read_pickle(tmp_path / "a")


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1]),
        pickle.dumps({"data": np.zeros((2, 3), dtype=np.float64)}),
        pickle.dumps({"data": np.zeros(3, dtype=object)}),
        pickle.dumps({"data": cifar_rows(2)}, protocol=2)[:-300],
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n)Rs.",
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n)R(I5\ntbs.",
    ],
)
def test_damaged_pickles_are_an_error(stream: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(stream)
    with pytest.raises(DlcliError, match="not a CIFAR file"):
        read_pickle(tmp_path / "a")


def test_incomplete_cifar_copies(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "bin")
    folder = tmp_path / "cifar-10-batches-bin"
    (folder / "data_batch_2.bin").write_bytes(b"abc")
    with pytest.raises(DlcliError, match="3 bytes, not a multiple of the record size 3073"):
        named("cifar10", tmp_path)
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(DlcliError, match="lacks data_batch_2"):
        named("cifar10", tmp_path)


def test_svhn_label_10_is_digit_0(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    for split in ("train", "test"):
        marks = (1 + np.arange(20) % 10).astype(np.uint8)[:, None]
        scipy_io.savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": marks})
    source = named("svhn", tmp_path)
    test = source.splits["test"]
    assert test.targets[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert np.array_equal(pixels_of(test)[3], pixels[..., 3])
    (tmp_path / "test_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 200)
    with pytest.raises(DlcliError, match=r"test_32x32\.mat is damaged or not a MATLAB file"):
        named("svhn", tmp_path)


def test_stl10_planes_and_columns(tmp_path: Path) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 96, 96, 3), dtype=np.uint8)
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes((1 + labels(20)).tobytes())
    source = named("stl10", tmp_path)
    test = source.splits["test"]
    assert np.array_equal(pixels_of(test), pixels)
    assert test.targets[:3].tolist() == [0, 1, 2]
    (folder / "test_X.bin").write_bytes(b"x")
    with pytest.raises(DlcliError, match="1 bytes, not a multiple of 27648"):
        named("stl10", tmp_path)


# ---- torchvision's photo sets


def test_photo_sets_are_listed_through_torchvision(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    root = tmp_path / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    for part in ("train", "val", "test"):
        lines = []
        for label in ("banded", "dotted"):
            for i in range(2):
                path = root / "images" / label / f"{part}{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(path)
                lines.append(f"{label}/{path.name}\n")
        (root / "labels" / f"{part}1.txt").write_text("".join(lines))
    for place in (tmp_path, tmp_path / "dtd"):
        source = named("dtd", place)
        assert source.class_names == ("banded", "dotted")
        assert source.given == {"train", "val", "test"}
        assert source.native == (3, 0, 0)
        assert source.splits["val"].ids == tuple(
            f"dtd/dtd/images/{label}/val{i}.jpg" for label in ("banded", "dotted") for i in range(2)
        )
        assert source.splits["val"].targets.tolist() == [0, 0, 1, 1]
    (root / "labels" / "test1.txt").unlink()
    with pytest.raises(DlcliError, match="is incomplete"):
        named("dtd", tmp_path)


def test_an_unsplit_photo_set_is_split(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    for label in ("Forest", "River"):
        for i in range(5):
            path = tmp_path / "eurosat" / "2750" / label / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (40 * i, len(label), 0)).save(path)
    source = named("eurosat", tmp_path)
    assert source.class_names == ("Forest", "River")
    assert {name: len(part) for name, part in source.splits.items()} == {"train": 6, "val": 2, "test": 2}


def test_every_photo_set_exists_in_this_torchvision() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    from dlcli.data.sets.torchvision_sets import PHOTO_SETS

    for entry in PHOTO_SETS.values():
        assert hasattr(datasets, entry.torchvision)


# ---- absent sets


def test_offline_is_refused_at_once(tmp_path: Path) -> None:
    t0 = time.perf_counter()
    with pytest.raises(DlcliError) as info:
        named("cifar10", tmp_path, offline=True)
    assert time.perf_counter() - t0 < 1
    assert "cifar10 is not on disk, and --offline forbids its download" in info.value.message
    assert "--data-dir" in str(info.value.hint)
    assert str(tmp_path / "cache" / "datasets" / "cifar10") in str(info.value.hint)


def test_a_data_dir_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match=r"--data-dir .*nowhere is not a folder"):
        named("mnist", tmp_path / "nowhere")


def fake(fetch: Callable[[Path], None]) -> NamedSet:
    real = DATASETS.get("mnist")
    return NamedSet(read=real.read, url="http://example.invalid/x", fetch=fetch)


def test_a_download_goes_to_the_cache_whole_and_is_found_again(
    tmp_path: Path, no_network: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(download, "require", lambda url, **values: asked.append(url))

    def fetch(root: Path) -> None:
        print("extracting")
        write_idx(root / "MNIST" / "raw", gz=False)
        (root / "archive.tar.gz").write_bytes(b"x")

    mine = tmp_path / "mine"
    mine.mkdir()
    for _ in range(2):
        found = download.load_named_set("mnist", fake(fetch), data_dir=mine, offline=False)
        assert len(found.splits["train"]) == 40
    assert asked == ["http://example.invalid/x"]
    assert list(mine.iterdir()) == []
    assert [p.name for p in (no_network / "datasets").iterdir()] == ["mnist"]
    assert not (no_network / "datasets" / "mnist" / "archive.tar.gz").exists()
    assert capsys.readouterr().out == ""  # stdout is for results


@pytest.mark.parametrize("error", [RuntimeError("File not found or corrupted."), ConnectionError("cut")])
def test_a_broken_download_leaves_nothing(
    error: Exception, no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "require", lambda url, **values: None)

    def fetch(root: Path) -> None:
        (root / "half").write_text("x")
        raise error

    with pytest.raises(DlcliError, match="mnist") as info:
        download.load_named_set("mnist", fake(fetch), data_dir=None, offline=False)
    assert "--data-dir" in str(info.value.hint)
    assert list((no_network / "datasets").iterdir()) == []
