"""The programs in C++: built by their own build line, they answer as the model does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny
from PIL import Image

from dlcli.card import Card, ModelSpec
from dlcli.config import ExportConfig
from dlcli.data.prepare import prepare, random_inputs
from dlcli.errors import UsageError
from dlcli.formats.base import FORMATS, Artifact, open_artifact
from dlcli.formats.checkpoint import save_model
from dlcli.formats.readable_outputs import to_probabilities
from dlcli.task import NumberColumn, TabularInput, TaskSpec, Thresholds
from dlcli.zoo.base import build_model

# The include folder of ONNX Runtime, which its wheel lacks: .ci/fetch-for-cpp fetches it.
HEADERS = os.environ.get("DLCLI_ORT_HEADERS")
_LIBRARIES = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
needs_headers = pytest.mark.skipif(
    not (HEADERS and _LIBRARIES and shutil.which("g++")),
    reason="needs g++, a libonnxruntime.so in the wheel, and DLCLI_ORT_HEADERS, a folder with "
    "onnxruntime_cxx_api.h: .ci/fetch-for-cpp",
)
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")


def build(folder: Path, text: str, file_name: str) -> Path:
    """The program, built in ``folder`` by the lines of its head."""
    (folder / file_name).write_text(text)
    lines = re.findall(r"^//     ((?:TORCH=|g\+\+ ).*)$", text, re.MULTILINE)
    assert lines
    runtime = folder / "ort"
    if HEADERS:
        (runtime / "lib").mkdir(parents=True)
        (runtime / "include").symlink_to(Path(HEADERS).resolve())
        for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
            (runtime / "lib" / name).symlink_to(_LIBRARIES[0])
    script = "\n".join(["set -e", f"ORT={runtime}", *lines]).replace("g++ ", "g++ -Wall -Werror=format ")
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / file_name.removesuffix(".cpp")


def ask(program: Path, *args: object) -> list[dict[str, Any]]:
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(program: Path, *args: object) -> str:
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("error: ")
    return done.stderr


def exported(
    folder: Path, source: Artifact, name: str = "onnx", **config: Any
) -> tuple[Artifact, Path, str]:
    """The export, its path, and the program for it."""
    entry = FORMATS.get(name)
    assert entry.write is not None
    path = folder / f"best{entry.suffix}"
    entry.write(source, path, ExportConfig(**config))
    opened = open_artifact(path, device="cpu", trust=True)
    return opened, path, entry.examples["cpp"].write(path, opened.card)


def model(folder: Path, task: TaskSpec, name: str = "mlp") -> Artifact:
    card = Card(model=ModelSpec(name=name), task=task)
    save_model(folder / "m.safetensors", build_model(card.model, task), card)
    return open_artifact(folder / "m.safetensors", device="cpu")


def check_rows(rows: list[dict[str, Any]], source: Artifact, inputs: Any) -> None:
    """Compare answers with the model's."""
    task, outputs = source.card.task, source.predict(inputs)
    assert len(rows) == len(outputs)
    for row, output in zip(rows, outputs, strict=True):
        if task.kind == "classification":
            p = to_probabilities(output[None], task)[0]
            assert row["label"] == task.class_names[int(p.argmax())]
            assert row["probability"] == pytest.approx(float(p.max()), abs=1e-5)
        elif task.kind == "multilabel":
            p = to_probabilities(output[None], task)[0]
            assert list(row["probabilities"].values()) == pytest.approx(p.tolist(), abs=1e-5)
            limits = [0.5] * len(p) if task.thresholds is None else task.thresholds.values
            likely = [n for n, v, t in zip(task.class_names, p, limits, strict=True) if v > t]
            assert row["labels"] == likely
        elif task.targets:
            numbers = output.reshape(-1, len(task.targets))
            for i, target in enumerate(task.targets):
                values = (numbers[:, i] * target.std + target.mean).tolist()
                said = row[target.name]
                assert (said if isinstance(said, list) else [said]) == pytest.approx(values, abs=1e-5)
        else:
            assert row["embedding"] == pytest.approx(output.tolist(), abs=1e-5)


def save_arrays(folder: Path, inputs: Any, task: TaskSpec) -> list[Path]:
    paths = []
    for name, array in prepare(inputs, task).items():
        paths.append(folder / f"{name}.npy")
        np.save(paths[-1], array)
    return paths


@pytest.mark.slow
@needs_headers
@pytest.mark.parametrize("name", ["cnn", "embedding", "lstm", "rnn", "forecast", "table", "tensors"])
def test_arrays_are_answered_as_the_model_answers_them(name: str, tmp_path: Path) -> None:
    source = tiny.artifact(tmp_path, name)
    _, path, text = exported(tmp_path, source)
    program = build(tmp_path, text, "predict_onnx.cpp")
    inputs = random_inputs(source.card.task, 5, seed=1)
    files = save_arrays(tmp_path, inputs, source.card.task)
    check_rows(ask(program, path, *files), source, inputs)
    assert "not a file of numpy.save" in refused(program, path, *[path] * len(files))
    np.save(files[0], np.zeros(3, np.float16))
    assert "the model takes" in refused(program, path, *files)
    files[0].write_bytes(files[-1].read_bytes()[:-1])
    assert refused(program, path, *files)
    assert "give the model and" in refused(program, path)


@pytest.mark.slow
@needs_headers
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("config", [{}, {"dynamic": False, "batch_size": 3}])
def test_a_photo_is_read_as_its_pixels(channels: int, config: dict[str, Any], tmp_path: Path) -> None:
    task = tiny.make_task(tiny.image(9, channels), classes=['a "b"', "back\\slash", "$x é"])
    source = model(tmp_path, task)
    opened, path, text = exported(tmp_path, source, embed_preprocessing=True, **config)
    program = build(tmp_path, text, "predict_onnx.cpp")
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, channels), dtype=np.uint8)
    photo = tmp_path / ("photo.ppm" if channels == 3 else "photo.pgm")
    Image.fromarray(pixels if channels == 3 else pixels[:, :, 0]).save(photo)
    batch = config.get("batch_size", 1)
    logits = opened.run_feeds({"image": np.repeat(pixels[None], batch, axis=0)})  # type: ignore[attr-defined]
    p = to_probabilities(logits[:1], task)[0]
    (row,) = ask(program, path, photo)
    assert row["label"] == task.class_names[int(p.argmax())]
    assert row["probability"] == pytest.approx(float(p.max()), abs=1e-5)
    magic, rest = photo.read_bytes().split(b"\n", 1)
    photo.write_bytes(magic + b"\n# a comment\n" + rest)
    assert ask(program, path, photo) == [row]
    photo.write_bytes(photo.read_bytes()[:-1])
    assert "is cut off" in refused(program, path, photo)
    photo.write_bytes(b"P4\n1 1\n255\n0")
    assert "is not a binary" in refused(program, path, photo)


@pytest.mark.slow
@needs_headers
def test_a_row_is_read_as_its_cells(tmp_path: Path) -> None:
    spec = tiny.table(("a", "b"), {"c": "xyz"}, indicators=("b",))
    source = model(tmp_path, tiny.make_task(spec, "regression", targets=("price",)))
    opened, path, text = exported(tmp_path, source, embed_preprocessing=True)
    program = build(tmp_path, text, "predict_onnx.cpp")
    for cells, numbers, word in (
        (["a=1.5", "b=-2e1", "c=y"], [1.5, -20.0], "y"),
        (["a=3"], [3.0, np.nan], ""),
        (["c=never seen", "b="], [np.nan, np.nan], "never seen"),
    ):
        feeds = {"numeric": np.array([numbers]), "words": np.array([[word]], object)}
        (scaled,) = opened.run_feeds(feeds)  # type: ignore[attr-defined]
        (row,) = ask(program, path, *cells)
        assert row == {"price": pytest.approx(float(scaled[0]) * 2 + 3, abs=1e-5)}
    assert "reads no column d" in refused(program, path, "d=1")
    for cell in ("1,5", "0x64", " 1", "inf", "nan", "1e", "+"):
        assert f'"{cell}" is not a number' in refused(program, path, f"a={cell}")
    assert "the cell of a is given twice" in refused(program, path, "a=1", "c=y", "a=2")
    assert "is not COLUMN=VALUE" in refused(program, path, "a")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", ["cnn", "forecast"])
def test_an_aotinductor_package_answers_as_the_model_does(name: str, tmp_path: Path) -> None:
    source = tiny.artifact(tmp_path, name)
    _, path, text = exported(tmp_path, source, "aoti")
    program = build(tmp_path, text, "predict_aoti.cpp")
    inputs = random_inputs(source.card.task, 5, seed=1)
    files = save_arrays(tmp_path, inputs, source.card.task)
    check_rows(ask(program, path, *files), source, inputs)
    assert "the model takes <f4" in (np.save(files[0], np.zeros(3)) or refused(program, path, *files))


def test_what_a_program_is_told_of_a_model(tmp_path: Path) -> None:
    """Names of any characters, thresholds, times, many classes."""
    write = FORMATS.get("onnx").examples["cpp"].write
    names = ['say "hi"', "back\\slash", "bell\x07", *(f"class {i}" for i in range(300))]
    card = Card(model=ModelSpec(name="mlp"), task=tiny.make_task(tiny.image(8), classes=names))
    text = write(tmp_path / "best.onnx", card)
    assert r'{"say \"hi\"", "back\\slash", "bell�", "class 0"' in text
    assert max(map(len, text.splitlines())) <= 125
    assert "(pixels / 255 - mean) / std, mean 0.5, 0.5, 0.5, std 0.25, 0.25, 0.25" in text
    spec = TabularInput(numbers=(NumberColumn(name="sold", format="%Y-%m-%d"),))
    task = tiny.make_task(spec, classes=("no", "yes"))
    task = task.with_thresholds(Thresholds(values=(0.3,), metric="f1", samples=9))
    card = Card(model=ModelSpec(name="mlp"), task=task)
    card = card.with_record("embed-preprocessing", inputs=["numeric"])
    text = write(tmp_path / "best.onnx", card)
    assert "p[1] > 0.3" in text
    assert "a time is in seconds since 1970" in text
    assert "WORDS" not in text


def test_a_translation_is_refused() -> None:
    spec, task = tiny.MODELS["seq2seq"]
    for name in ("onnx", "aoti"):
        with pytest.raises(UsageError, match="word by word"):
            FORMATS.get(name).examples["cpp"].check(Card(model=spec, task=task), embedded=False)
