"""The idx reader against files written byte by byte; torchvision's reader is the oracle."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from dlcli.errors import DlcliError
from dlcli.notation.idx import looks_like_idx, read_idx


def idx(values: np.ndarray, code: int = 8) -> bytes:
    head = bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.tobytes()


CODES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("packed", [False, True])
def test_every_type_plain_and_gzipped(code: int, packed: bool, tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(CODES[code])
    content = idx(values, code)
    path = tmp_path / "values"
    path.write_bytes(gzip.compress(content) if packed else content)
    found = read_idx(path)
    assert found.dtype.isnative
    assert found.flags.writeable
    assert np.array_equal(found, values)
    assert looks_like_idx(path)


def test_torchvision_reads_the_same(tmp_path: Path) -> None:
    mnist = pytest.importorskip("torchvision.datasets.mnist")
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 6), dtype=np.uint8)
    (tmp_path / "a").write_bytes(idx(values))
    expected = mnist.read_sn3_pascalvincent_tensor(str(tmp_path / "a")).numpy()
    assert np.array_equal(read_idx(tmp_path / "a"), expected)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match="cannot read"):
        read_idx(tmp_path / "absent")
    assert not looks_like_idx(tmp_path / "absent")


GOOD = idx(np.zeros((4, 3, 3), dtype=np.uint8))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file: it starts with nothing"),
        (b"\x89PNG....", "not an idx file: it starts with 89 50 4e 47"),
        (b"\0\0\x07\x01\0\0\0\x01a", "not an idx file"),
        (GOOD[:10], "ends within its header"),
        (GOOD[:-1], "4 x 3 x 3 values, 36 bytes, but 35 follow"),
        (GOOD + b"x", "36 bytes, but more than 36 follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"abc", "but fewer follow"),
    ],
)
def test_damaged_files(content: bytes, message: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DlcliError) as info:
        read_idx(path)
    assert message in info.value.message
    assert str(path) in info.value.message


def test_a_truncated_gzip_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 9, 9), dtype=np.uint8)
    whole = gzip.compress(idx(noise))
    for size in (2, 12, len(whole) // 2, len(whole) - 4):
        (tmp_path / "a.gz").write_bytes(whole[:size])
        with pytest.raises(DlcliError, match="cannot read"):
            read_idx(tmp_path / "a.gz")
