"""OpenVINO files: two files that belong together, and the model's answers at any size."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from full_disk import full_disk
from tiny import artifact

from dlcli.config import ExportConfig
from dlcli.deploy.export import staging_folder
from dlcli.errors import DlcliError
from dlcli.files import CannotWrite
from dlcli.formats.base import Artifact, open_artifact, read_card, sniff_format

pytest.importorskip("openvino")

import openvino

from dlcli.formats.openvino import save, write_openvino


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact(tmp_path_factory.mktemp("model"), "cnn")


@pytest.fixture(scope="module")
def written(before: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, made once: it goes by way of ONNX."""
    path = tmp_path_factory.mktemp("openvino") / "best.xml"
    write_openvino(before, path, ExportConfig())
    return path


def test_a_static_file_accepts_any_batch(before: Artifact, tmp_path: Path) -> None:
    write_openvino(before, tmp_path / "x.xml", ExportConfig(dynamic=False, batch_size=3, softmax=True))
    after = open_artifact(tmp_path / "x.xml", device="cpu")
    assert [record.kind for record in after.card.transforms] == ["static", "probabilities"]
    assert after.predict((np.zeros((4, 9, 9, 1), np.uint8),)).shape == (4, 3)


def copied(written: Path, folder: Path) -> Path:
    for path in written.parent.glob("best.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / written.name


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="only Linux lists what is mapped")
def test_its_tensors_are_read_and_not_mapped(written: Path, tmp_path: Path) -> None:
    path = copied(written, tmp_path)
    opened = open_artifact(path, device="cpu")
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    del opened


@pytest.mark.skipif(
    int(version("openvino").partition(".")[0]) < 2026,
    reason="OpenVINO of 2025 reports no failed write: the file is refused when it is loaded again",
)
def test_a_full_disk_is_named_though_openvino_has_no_words_for_it(written: Path, tmp_path: Path) -> None:
    target = tmp_path / "best.xml"
    model = openvino.Core().read_model(str(written))
    with (
        full_disk(1000),
        pytest.raises(CannotWrite, match=r"OpenVINO: .* free there") as caught,
        staging_folder(target) as folder,
    ):
        save(model, folder / "best.xml", half=False)
    assert caught.value.path == target
    assert not list(tmp_path.iterdir())


def test_its_tensors_must_be_next_to_it(written: Path, tmp_path: Path) -> None:
    path = copied(written, tmp_path)
    open_artifact(path, device="cpu")
    tensors = path.with_suffix(".bin")
    data = tensors.read_bytes()
    tensors.write_bytes(data[:-4] + bytes(4))
    with pytest.raises(DlcliError, match="damaged, or belongs to another model"):
        open_artifact(path, device="cpu")
    tensors.unlink()
    with pytest.raises(DlcliError, match=r"best\.bin, which is not next to it"):
        open_artifact(path, device="cpu")
    assert read_card(path).model.name == "cnn"  # the card needs the graph alone


def test_damaged_and_foreign_graphs_are_named(written: Path, tmp_path: Path) -> None:
    path = copied(written, tmp_path)
    text = path.read_text()
    assert str(written.parent.parent) not in text
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DlcliError, match="damaged"):
        open_artifact(path, device="cpu")
    path.write_text('<?xml version="1.0"?>\n<net name="x" version="11"><layers/></net>')
    with pytest.raises(DlcliError, match="without a dlcli card"):
        open_artifact(path, device="cpu")
    path.write_text('<?xml version="1.0"?>\n<annotation><object/></annotation>')
    with pytest.raises(DlcliError, match="is not a model file"):
        sniff_format(path)
