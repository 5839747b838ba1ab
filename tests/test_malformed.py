"""Malformed files end in an error of the user's, never in a defect (exit code 70), in bounded time."""

from __future__ import annotations

import json
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from dlcli.cli import main

DEFECT = 70
LIMIT_S = 20.0  # of one command; most take some milliseconds

ROWS = "\n".join(f"{i},{i * 7 % 5},{'ab'[i % 2]}" for i in range(40))


def write_inputs(folder: Path) -> dict[str, list[str]]:
    """One small valid file of each kind, and the command that reads it."""
    files: dict[str, tuple[str | bytes, list[str]]] = {
        "table.csv": (f"x,y,label\n{ROWS}\n", ["data"]),
        "rows.jsonl": (
            "\n".join(json.dumps({"text": f"a {i}", "label": "ab"[i % 2]}) for i in range(40)),
            ["data"],
        ),
        "settings.yaml": (
            "optim:\n  lr: 1e-3\nfit: {epochs: 2}\ndata: {data: missing}\n",
            ["train", "--model", "mlp", "--config"],
        ),
    }
    for name, (content, _) in files.items():
        (folder / name).write_text(str(content), encoding="utf-8")
    commands = {name: command for name, (_, command) in files.items()}
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6, 2)).astype(np.float32)
    np.savez(folder / "series.npz", X=x, y=np.arange(40) % 2)
    np.save(folder / "series.npy", x)
    save_file({"w": torch.zeros(2, 3)}, folder / "model.safetensors", {"k": "v"})
    torch.save({"w": torch.zeros(2, 3)}, folder / "model.pth")
    _write_onnx(folder / "model.onnx")
    commands |= {key: ["data"] for key in ("series.npz", "series.npy")}
    commands |= {key: ["info"] for key in ("model.safetensors", "model.pth", "model.onnx")}
    return commands


def _write_onnx(path: Path, change: Callable[[onnx.ModelProto], None] = lambda model: None) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", 3]) for n in "xy")
    w = helper.make_tensor("w", TensorProto.FLOAT, [3, 3], [1.0] * 9)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    change(model)
    path.write_bytes(model.SerializeToString())


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A copy with some bytes changed, cut out, repeated or put in."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 2, 16, 200)))
        kind = rng.randrange(5)
        if kind == 0:
            out[at:end] = rng.randbytes(end - at)
        elif kind == 1:
            del out[at:end]
        elif kind == 2:
            out[at:at] = out[at:end] * rng.choice((1, 50))
        elif kind == 3:
            tokens = (b"\0", b"{[" * 3000, b"!!timestamp x", b"\xff\xfe", b"-1", b"9" * 30, b"NaN")
            out[at:at] = rng.choice(tokens)
        else:
            out = out[:at]
    return bytes(out)


def run(args: list[str]) -> int:
    start = time.monotonic()
    code = main(args)
    assert time.monotonic() - start < LIMIT_S, args
    return code


def fuzz(folder: Path, count: int, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    commands = write_inputs(folder)
    names = sorted(commands)
    rng = random.Random(seed)
    for number in range(count):
        name = names[number % len(names)]
        path = folder / f"m{Path(name).suffix}"
        path.write_bytes(mutate((folder / name).read_bytes(), rng))
        code = run([*commands[name], str(path)])
        err = capsys.readouterr().err
        assert code != DEFECT, (name, seed, number, err)
        assert "Traceback" not in err
        path.unlink()


def test_mutated_files_end_in_errors_of_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fuzz(tmp_path, 150, 0, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_mutated_files_end_in_errors_of_the_user(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fuzz(tmp_path, 250, seed, capsys)


def _safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + b"\0" * 4


def _npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"


def _nul_location(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="a\0b")


def _huge_constant(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    del tensor.dims[:]
    tensor.dims.extend([1 << 20, 1 << 20])


LISTED = b'{"__metadata__":[1],"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
BROKEN = {
    "deep.yaml": b"a: " + b"[" * 3000 + b"]" * 3000,
    "timestamp.yaml": b"optim: {lr: !!timestamp x}",
    "list.safetensors": _safetensors(LISTED),
    "deep.safetensors": _safetensors(b'{"a":' * 40000 + b"1" + b"}" * 40000),
    "tokens.npy": b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4',",
    "wraps.npy": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4, 2)}"),
    "larger-than-memory.npy": _npy(
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000, 99999)}"
    ),
    "source.npy": b"\x93NUMPY\x01\x00\x10\x00{'descr' = 'f4'}\n",
}
COMMANDS = {".yaml": ["train", "--model", "mlp", "--config"], ".safetensors": ["info"], ".npy": ["data"]}


@pytest.mark.parametrize("name", BROKEN)
def test_what_parsers_cannot_take_is_an_error_of_the_user(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    assert run([*COMMANDS[path.suffix], str(path)]) in (1, 2)


def test_a_setting_that_is_no_timestamp_is_a_usage_error() -> None:
    assert run(["train", "--model", "mlp", "--data", "digits", "--set", "optim.lr=!!timestamp x"]) == 2


@pytest.mark.parametrize("change", [_nul_location, _huge_constant])
def test_onnx_files_that_no_runtime_opens_are_errors_of_the_user(
    change: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    _write_onnx(tmp_path / "bad.onnx", change)
    for command in ("info", "eval", "quantize"):
        assert run([command, str(tmp_path / "bad.onnx")]) in (0, 1, 2), command
