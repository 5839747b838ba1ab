"""Core ML packages: written and checked anywhere, run on macOS alone."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import MODELS, artifact, largest_difference

from dlcli.benchmark.run import artifacts_of
from dlcli.card import Card
from dlcli.cli import main
from dlcli.config import ExportConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.formats import coreml
from dlcli.formats.base import FORMATS, Artifact, open_artifact, read_card, recognize, sniff_format
from dlcli.formats.coreml import write_coreml
from dlcli.runs.folder import RunFolder

needs_coremltools = pytest.mark.skipif(
    importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed"
)
macos = sys.platform == "darwin"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact(tmp_path_factory.mktemp("model"), "cnn")


@pytest.fixture(scope="module")
def written(before: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "best.mlpackage"
    write_coreml(before, path, ExportConfig(batch_size=2, softmax=True))
    return path


@pytest.mark.slow
@needs_coremltools
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("lstm", "gru", "rnn")])
def test_all_but_recurrent_models_become_packages(name: str, tmp_path: Path) -> None:
    import coremltools

    before = artifact(tmp_path, name)
    path = tmp_path / "best.mlpackage"
    write_coreml(before, path, ExportConfig(half=name == "cnn"))
    assert recognize(path).format.name == "coreml"
    assert recognize(path).verify()
    card = read_card(path)
    assert card.task == before.card.task
    spec = coremltools.utils.load_spec(str(path))
    assert spec.WhichOneof("Type") == "mlProgram"
    names = [tensor.name for tensor in card.task.input.signature]
    assert [one.name for one in spec.description.input] == names
    assert [one.name for one in spec.description.output] == [card.task.output.name]
    if macos:
        tolerance = 2e-2 if name == "cnn" else 1e-4
        assert largest_difference(before, open_artifact(path, device="cpu")) <= tolerance


@pytest.mark.slow
@needs_coremltools
def test_weights_are_those_of_the_model(before: Artifact, written: Path) -> None:
    """As nothing runs the package here: each float32 weight of the model is in its file."""
    stored = np.frombuffer((written / "Data/com.apple.CoreML/weights/weight.bin").read_bytes(), "<f4")
    weights = [p for p in before.module().parameters() if p.ndim == 2]
    assert weights
    for weight in weights:
        first = np.flatnonzero(stored == weight.flatten()[0].item())
        flat = weight.detach().numpy().ravel()
        assert any(np.array_equal(stored[at : at + flat.size], flat) for at in first)


@pytest.mark.slow
@needs_coremltools
@pytest.mark.parametrize("name", ["Manifest.json", "model.mlmodel", "weight.bin"])
def test_a_changed_file_is_damage(name: str, written: Path, tmp_path: Path) -> None:
    path = tmp_path / "best.mlpackage"
    shutil.copytree(written, path)
    assert recognize(path).verify()
    (file,) = path.rglob(name)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DlcliError, match="is damaged"):
        recognize(path).verify()


@pytest.mark.slow
@needs_coremltools
@pytest.mark.skipif(macos, reason="Core ML runs packages here")
def test_elsewhere_it_is_written_and_said_not_to_be_compared(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DlcliError, match="Core ML predicts on macOS alone"):
        open_artifact(written, device="cpu")
    source = artifact(tmp_path, "cnn").path
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(source), "--format", "coreml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parity"] is None
    (verdict,) = told["verdict"]
    assert verdict == "not compared (Core ML predicts on macOS alone; its specification was checked)"
    card = read_card(Path(told["output"]))
    reasons = [record.args.get("reason") for record in card.transforms]
    assert "Core ML predicts on macOS alone" in reasons


def test_recurrent_models_are_refused_with_the_other_way(tmp_path: Path) -> None:
    for name in ("lstm", "gru", "rnn"):
        spec, task = MODELS[name]
        assert "--onnx" in FORMATS.get("coreml").unfit(Card(model=spec, task=task))
    with pytest.raises(DlcliError, match="no operator for recurrent layers"):
        write_coreml(artifact(tmp_path, "lstm"), tmp_path / "x.mlpackage", ExportConfig())


def made_up(path: Path, **metadata: str) -> Path:
    """A package of metadata alone."""

    def field(number: int, data: bytes) -> bytes:
        key = number << 3 | 2
        head = bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])
        assert len(data) < 2**21
        size, length = len(data), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return head + length + bytes([size]) + data

    entries = b"".join(
        field(100, field(1, key.encode()) + field(2, value.encode())) for key, value in metadata.items()
    )
    (path / "Data/com.apple.CoreML").mkdir(parents=True)
    (path / "Manifest.json").write_text("{}")
    (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(
        b"\x08\x07" + field(2, field(100, entries))
    )
    return path


def test_its_card_is_read_without_coremltools(tmp_path: Path) -> None:
    spec, task = MODELS["cnn"]
    card = Card(model=spec, task=task)
    path = made_up(tmp_path / "x.mlpackage", **{coreml.CARD_KEY: card.to_json()})
    assert sniff_format(path).name == "coreml"
    assert read_card(path) == card
    assert not recognize(path).verify()  # of no digest
    bare = made_up(tmp_path / "y.mlpackage", author="somebody")
    with pytest.raises(DlcliError, match="without a dlcli card"):
        read_card(bare)
    (bare / "Data/com.apple.CoreML/model.mlmodel").write_bytes(b"\x12\xff\xff\x03 cut off")
    with pytest.raises(DlcliError, match="is damaged"):
        read_card(bare)


@pytest.mark.skipif(macos, reason="Core ML runs packages here")
def test_a_benchmark_of_a_run_leaves_it_out_with_a_note(tmp_path: Path) -> None:
    spec, task = MODELS["cnn"]
    run = RunFolder(tmp_path)
    best = artifact(tmp_path, "cnn").path.rename(run.best)
    made_up(tmp_path / "best.mlpackage", **{coreml.CARD_KEY: Card(model=spec, task=task).to_json()})
    said: list[object] = []
    assert artifacts_of(run, said.append) == [best]
    assert [getattr(event, "message", "") for event in said] == [
        f"{tmp_path / 'best.mlpackage'} is left out: Core ML predicts on macOS alone"
    ]


def test_a_dynamic_package_is_no_option(tmp_path: Path) -> None:
    from dlcli.formats.export_options import check_options

    with pytest.raises(UsageError, match="--simplify"):
        check_options(FORMATS.get("coreml"), ExportConfig(simplify=True))
    check_options(FORMATS.get("coreml"), ExportConfig(batch_size=3))
