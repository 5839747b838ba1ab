"""Triton's model repository: its layout, its configuration, and that dlcli reads it as any model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from dlcli.config import ExportConfig
from dlcli.data.prepare import random_inputs
from dlcli.errors import DlcliError
from dlcli.formats.base import FORMATS, Artifact, open_artifact, recognize
from dlcli.serve.models import names_of
from tests.helpers import tiny

TRITON = FORMATS.get("triton")


def written(folder: Path, name: str, **settings: object) -> tuple[Artifact, Path]:
    source = tiny.artifact(folder / "source", name)
    path = folder / "best.triton"
    assert TRITON.write is not None
    TRITON.write(source, path, ExportConfig.model_validate(settings))
    return source, path


def test_sha256sum_can_check_it(tmp_path: Path) -> None:
    _, path = written(tmp_path, "cnn")
    listed = dict(reversed(line.split("  ")) for line in (path / "SHA256SUMS").read_text().splitlines())
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "SHA256SUMS"]
    assert listed == {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
    assert len(files) == 3


def test_an_edited_configuration_is_named_and_the_model_in_it_is_read(tmp_path: Path) -> None:
    source, path = written(tmp_path, "cnn")
    (config,) = path.glob("*/config.pbtxt")
    with config.open("a") as file:
        file.write("instance_group [ { count: 2 } ]\n")
    with pytest.raises(DlcliError, match=r"config\.pbtxt changed") as caught:
        open_artifact(path, device="cpu")
    assert "ONNX file" in str(caught.value.hint)
    (model,) = path.glob("*/1/model.onnx")
    inputs = random_inputs(source.card.task, 3)
    outputs = open_artifact(model, device="cpu").predict(inputs)
    np.testing.assert_allclose(outputs, source.predict(inputs), atol=1e-5)
    (path / "other" / "1").mkdir(parents=True)
    (path / "other" / "1" / "model.onnx").write_bytes(model.read_bytes())
    with pytest.raises(DlcliError, match="2 files"):
        _ = recognize(path).card


def test_its_model_has_the_name_that_serve_gives(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "run.json").write_text("{}")
    _, path = written(tmp_path, "cnn")
    (config,) = path.glob("*/config.pbtxt")
    assert config.parent.name == names_of([tmp_path / "source" / "best.onnx"], [])[0][0] == "source"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(tiny.MODELS))
def test_triton_parses_its_configuration(tmp_path: Path, name: str) -> None:
    """By the message of Triton's own client; a server has not run it."""
    messages = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    source, path = written(tmp_path, name)
    (file,) = path.glob("*/config.pbtxt")
    config = text_format.Parse(file.read_text(), messages.ModelConfig())
    task = source.card.task
    assert (config.name, config.backend) == (file.parent.name, "onnxruntime")
    assert [value.name for value in config.input] == [one.name for one in task.input.signature]
    for value, spec in zip(config.input, task.input.signature, strict=True):
        kind = messages.DataType.Name(value.data_type)
        assert kind == {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}[spec.dtype]
        dims = [size if isinstance(size, int) else -1 for size in spec.dims[1:]]
        assert list(value.dims) == (dims or [1])
        assert value.HasField("reshape") == (not dims)
    labels = file.parent / "labels.txt"
    assert labels.is_file() == bool(task.class_names)
    assert config.output[0].label_filename == ("labels.txt" if task.class_names else "")
    if task.class_names:
        assert len(labels.read_text().splitlines()) == len(task.class_names)
    assert config.max_batch_size > 1
