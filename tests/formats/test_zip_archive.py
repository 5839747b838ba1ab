"""Archives that unpack to far more than they hold, and the digest in an archive's comment."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dlcli import files
from dlcli.cli import main
from dlcli.errors import DlcliError
from dlcli.formats.zip_archive import check_whole, read_member, write_in_memory


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_not_unpacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "_ALWAYS_FINE_BYTES", 2**16)
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0", bytes(10_000_000))
    with pytest.raises(DlcliError, match="unpacks to 10,000,000"):
        check_whole(path)
    assert main(["train", "--model", "mlp", "--data", "digits", "--weights", str(path)]) == 1
    assert "unpacks to 10,000,000" in capsys.readouterr().err


def test_torch_and_zipfile_read_an_archive_with_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    write_in_memory(path, lambda file: torch.save({"w": torch.ones(3)}, file))
    assert check_whole(path)
    assert torch.load(path, weights_only=True)["w"].tolist() == [1.0, 1.0, 1.0]
    assert read_member(path, "data.pkl")
    torch.save({"w": torch.ones(3)}, path)
    assert not check_whole(path)  # another program's has none


def test_arrays_and_tables_that_unpack_to_a_thousand_times_their_size_are_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_ALWAYS_FINE_BYTES", 2**16)
    np.savez_compressed(tmp_path / "a.npz", X=np.zeros((30, 100_000), np.uint8), y=np.arange(30) % 2)
    with gzip.open(tmp_path / "t.csv.gz", "wb", compresslevel=1) as file:
        file.write(b"x,label\n")
        file.write(b"0,a\n" * 250_000)
    for name in ("a.npz", "t.csv.gz"):
        assert main(["data", str(tmp_path / name)]) == 1
        assert "over 100 times as much: it is not read" in capsys.readouterr().err
