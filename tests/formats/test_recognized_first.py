"""A model file is recognised by its content; its ending only decides which format is imported first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from dlcli.errors import DlcliError
from dlcli.formats.base import sniff_format

CODE = """
import sys
from pathlib import Path
from dlcli.formats.base import sniff_format
print(sniff_format(Path(sys.argv[1])).name)
print(sorted({"dlcli.formats.torchscript", "torch", "packaging"} & set(sys.modules)))
"""


def write_onnx(path: Path) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_the_format_of_the_ending_is_the_only_one_imported(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx")
    command = [sys.executable, "-c", CODE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["onnx", "[]"]


@pytest.mark.parametrize("ending", [".onnx", ".safetensors", ".pt2", "", ".weights"])
def test_the_content_decides_whatever_the_ending(tmp_path: Path, ending: str) -> None:
    assert sniff_format(write_onnx(tmp_path / f"model{ending}")).name == "onnx"
    (tmp_path / f"other{ending}").write_bytes(b"no model at all")
    with pytest.raises(DlcliError, match="is not a model file"):
        sniff_format(tmp_path / f"other{ending}")
