"""The runtimes are silent: no look-up of a host, nothing written at home."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = """
import os, socket
def refuse(*args, **kwargs):
    with open(os.environ["LOOKUPS"], "a") as file:
        file.write(repr(args))
    raise OSError("no network")
socket.getaddrinfo = socket.gethostbyname = refuse
"""
USE = {
    "onnxruntime": "import dlcli.machine.probe as p; p.run_onnx()",
    "openvino": "import dlcli, openvino; openvino.convert_model; import openvino.tools.ovc",
}


@pytest.mark.parametrize("library", sorted(USE))
def test_a_runtime_leaves_nothing_at_home_and_looks_nothing_up(library: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    home, site = tmp_path / "home", tmp_path / "site"
    home.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(GUARD)
    path = os.pathsep.join([str(site), str(Path(__file__).parent.parent)])
    dropped = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    env |= {"HOME": str(home), "PYTHONPATH": path, "LOOKUPS": str(tmp_path / "lookups")}
    subprocess.run([sys.executable, "-c", USE[library]], env=env, check=True, timeout=120)
    assert not (tmp_path / "lookups").exists()
    assert [str(p) for p in home.rglob("*") if p.is_file()] == []
