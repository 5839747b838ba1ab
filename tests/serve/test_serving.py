"""A server gives what `predict` gives, whatever shares its batches; what it cannot serve is no 500."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image
from serving import Client, Reply, running

from dlcli.card import Card
from dlcli.cli import main
from dlcli.data.prepare import random_inputs
from dlcli.formats.checkpoint import save_model
from dlcli.serve import reload
from dlcli.serve.predictions import predict_uploads, read_options
from dlcli.serve.protocol import HEADER_LENGTH
from dlcli.serve.warm_up import example, warm_up
from dlcli.task import TaskSpec

NAMES = ("cnn", "lstm", "table", "series", "seq2seq", "forecast", "embedding", "tensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``NAME.safetensors`` of a tiny model of each kind, and inputs for them."""
    root = tmp_path_factory.mktemp("served")
    for name in NAMES:
        tiny.save(root, name)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(root / "photo.png")
    (root / "rows.csv").write_text("n,c\n0.5,x\n-1.25,y\n,unseen\n")
    (root / "texts.txt").write_text("1 2 3\n17 4\n")
    steps = "\n".join(f"{u:.3f},{v:.3f}" for u, v in rng.normal(size=(20, 2)))
    (root / "history.csv").write_text(f"u,v\n{steps}\n")
    return root


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with running(*(folder / f"{name}.safetensors" for name in NAMES), max_body_mb=0.5) as served:
        yield served


def predicted(capsys: pytest.CaptureFixture[str], model: Path, *args: str) -> list[dict[str, Any]]:
    """The rows of `dlcli predict`, with its input's name as that of a body."""
    assert main(["predict", str(model), *args, "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["predictions"]
    return [{**row, "input": row["input"].replace(args[0], "body")} for row in rows]


@pytest.mark.parametrize(
    ("name", "file", "media_type"),
    [
        ("cnn", "photo.png", "image/png"),
        ("embedding", "photo.png", ""),
        ("table", "rows.csv", "text/csv"),
        ("lstm", "texts.txt", "text/plain"),
        ("seq2seq", "texts.txt", ""),
        ("forecast", "history.csv", "application/x-www-form-urlencoded"),
    ],
)
def test_predict_gives_the_rows_of_the_command(
    folder: Path,
    client: Client,
    capsys: pytest.CaptureFixture[str],
    name: str,
    file: str,
    media_type: str,
) -> None:
    reply = client.post(
        f"/predict?model={name}", (folder / file).read_bytes(), {"content-type": media_type}
    )
    assert reply.status == 200, reply.body
    expected = predicted(capsys, folder / f"{name}.safetensors", str(folder / file))
    assert reply.json["predictions"] == expected  # bit for bit: JSON has all digits
    assert reply.json["failed"] == []


@pytest.mark.parametrize("name", ["cnn", "embedding", "table", "lstm", "seq2seq"])
def test_a_model_is_warmed_up_by_a_sample_that_it_predicts_and_none_that_counts(
    folder: Path, client: Client, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    model = client.models.find(name)
    upload = example(model.task)
    assert upload is not None
    options = read_options({}, None)
    status, body, _ = predict_uploads(model, [upload], options, folder, threading.Semaphore())
    assert status == 200, body
    remembered = len(model.batches.recent())
    warm_up(model, folder)
    assert len(model.batches.recent()) == remembered
    assert capsys.readouterr().err == ""  # a refusal is logged


def test_rows_and_texts_of_json_are_those_of_files(
    folder: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"n": 0.5, "c": "x"}, {"n": -1.25, "c": "y"}, {"n": None, "c": "unseen"}]
    reply = client.post("/predict?model=table&probabilities=true", rows)
    table = folder / "table.safetensors"
    assert reply.json["predictions"] == predicted(capsys, table, str(folder / "rows.csv"))
    as_lines = client.post("/predict?model=table&format=jsonl&probabilities=true", rows)
    assert [json.loads(line) for line in as_lines.body.splitlines()] == reply.json["predictions"]
    texts = client.post("/predict?model=lstm", ["1 2 3", "17 4"])
    expected = predicted(capsys, folder / "lstm.safetensors", str(folder / "texts.txt"))
    assert [{**row, "row": 0} for row in texts.json["predictions"]] == [
        {**row, "row": 0} for row in expected
    ]


@pytest.mark.parametrize("cell", ["abc", True, "1e999"])
def test_a_reply_has_the_warnings_of_the_command(
    folder: Path, client: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str], cell: Any
) -> None:
    rows = [{"n": cell, "c": "Atlantis"}]
    warnings = client.post("/predict?model=table", rows).json["warnings"]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    assert main(["predict", str(folder / "table.safetensors"), str(tmp_path / "rows.jsonl")]) == 0
    printed = " ".join(capfd.readouterr().err.split())
    assert all(each in printed for each in warnings)
    assert "'n'" in warnings[0]
    assert "Atlantis" in warnings[-1]
    assert client.post("/predict?model=table", [{"n": 0.5, "c": "x"}]).json["warnings"] == []


def test_the_log_has_the_warnings_of_a_reply_without_a_place_for_them(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(folder / "table.safetensors", access_log=True) as served:
        assert served.post("/predict?format=csv", [{"n": "abc", "c": "x"}]).status == 200
    line = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert line["event"] == "request"
    assert "'n'" in line["warnings"][0]


def as_request(client: Client, name: str, arrays: tuple[Any, ...], *, binary: bool) -> Reply:
    """The reply to the arrays of a reader as tensors of the protocol."""
    declared = client.models.find(name).inputs
    inputs, tail = [], b""
    for tensor, array in zip(declared, arrays, strict=True):
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(array.shape),
        }
        if binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            tail += array.tobytes()
        else:
            entry["data"] = array.tolist()
        inputs.append(entry)
    head = json.dumps({"id": "7", "inputs": inputs, "parameters": {"binary_data_output": binary}})
    headers = {HEADER_LENGTH: str(len(head))} if binary else {}
    return client.post(f"/v2/models/{name}/infer", head.encode() + tail, headers)


def outputs_of(reply: Reply) -> Any:
    """The model's own output of a reply."""
    assert reply.status == 200, reply.body
    length = reply.headers.get(HEADER_LENGTH)
    head = json.loads(reply.body if length is None else reply.body[: int(length)])
    assert head["id"] == "7"
    first = head["outputs"][0]
    if length is None:
        return np.array(first["data"], dtype=np.float32).reshape(first["shape"])
    size = first["parameters"]["binary_data_size"]
    raw = reply.body[int(length) :][:size]
    return np.frombuffer(raw, dtype=np.float32).reshape(first["shape"])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_infer_gives_the_outputs_of_the_model(client: Client, name: str, binary: bool) -> None:
    model = client.models.find(name)
    arrays = random_inputs(model.task, 3, length=4, seed=1)
    outputs = outputs_of(as_request(client, name, arrays, binary=binary))
    assert (outputs == model.artifact.predict(arrays)).all()


@pytest.mark.parametrize("name", ["cnn", "lstm", "series", "seq2seq"])
def test_requests_at_the_same_time_share_batches_and_keep_their_outputs(
    client: Client, name: str
) -> None:
    model = client.models.find(name)
    several = [random_inputs(model.task, 1, length=1 + seed % 9, seed=seed) for seed in range(24)]
    futures = [model.batches.submit(arrays) for arrays in several]
    for arrays, future in zip(several, futures, strict=True):
        alone, shared = model.artifact.predict(arrays), future.result()
        assert shared.shape == alone.shape
        assert (shared.argmax(-1) == alone.argmax(-1)).all()
        assert np.abs(shared - alone).max() < 1e-6
    with ThreadPoolExecutor(8) as pool:
        replies = pool.map(lambda arrays: as_request(client, name, arrays, binary=True), several)
        for arrays, reply in zip(several, replies, strict=True):
            assert np.abs(outputs_of(reply) - model.artifact.predict(arrays)).max() < 1e-6


def test_metadata_names_what_infer_takes(client: Client) -> None:
    assert client.get("/v2/health/live").status == client.get("/v2/health/ready").status == 200
    assert client.get("/v2").json["extensions"] == ["binary_tensor_data"]
    metadata = client.get("/v2/models/cnn/versions/1").json
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 9, 9, 1]}]
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["logits", "probabilities", "label"]
    assert client.get("/v2/models/lstm").json["inputs"][0]["shape"] == [-1, -1]
    assert client.get("/v2/models/lstm/ready").status == 200


COLUMNS = {"name": "columns", "datatype": "FP32", "shape": [1, 2], "data": [0, 1]}
TOKENS = {"name": "tokens", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]}
LENGTHS = {"name": "lengths", "datatype": "INT64", "shape": [1], "data": [2]}


def inputs_of(*tensors: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"inputs": [{**tensors[0], **changes}, *tensors[1:]]}


MALFORMED: list[tuple[str, Any, int]] = [
    ("/predict?model=cnn", b"not an image", 400),
    ("/predict?model=cnn", b"", 400),
    ("/predict?model=cnn", b"path\n/etc/passwd\n", 400),
    ("/predict?model=none", b"x", 404),
    ("/predict?model=cnn&top_k=0", b"x", 400),
    ("/predict?model=cnn&bottom_k=1", b"x", 400),
    ("/predict?model=cnn&format=xml", b"x", 400),
    ("/predict?model=table", [{"other": 1}], 400),
    ("/predict?model=table", [1, 2], 400),
    ("/predict?model=table", [{"n": {"a": 1}}], 400),
    ("/predict?model=table", [], 400),
    ("/predict?model=table", "[" * 100_000, 400),
    ("/predict?model=table", b"\xff\xfe\x00", 400),
    ("/predict?model=table", b"null", 400),
    ("/predict?model=tensors", [1], 415),
    ("/predict", [{"n": 1, "c": "x"}], 400),
    ("/v2/models/none/infer", inputs_of(COLUMNS), 404),
    ("/v2/models/table/versions/9/infer", inputs_of(COLUMNS), 404),
    ("/v2/models/table/infer", "[" * 100_000, 400),
    ("/v2/models/table/infer", '{"inputs": [' * 30_000, 400),
    ("/v2/models/table/infer", "1" * 5000, 400),
    ("/v2/models/table/infer", b"\xff", 400),
    ("/v2/models/table/infer", [], 400),
    ("/v2/models/table/infer", {"inputs": 3}, 400),
    ("/v2/models/table/infer", {"inputs": []}, 400),
    ("/v2/models/table/infer", {"inputs": [3]}, 400),
    ("/v2/models/table/infer", {**inputs_of(COLUMNS), "id": 3}, 400),
    ("/v2/models/table/infer", {**inputs_of(COLUMNS), "outputs": [{"name": "x"}]}, 400),
    ("/v2/models/table/infer", {**inputs_of(COLUMNS), "outputs": 3}, 400),
    ("/v2/models/table/infer", {**inputs_of(COLUMNS), "parameters": {"binary_data_output": 3}}, 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, COLUMNS), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, name="rows"), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, datatype="FP64"), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, datatype=None), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, shape=[1, 3]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, shape=[-1, 2]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, shape=[10**30, 2]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, shape="1"), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, shape=[0, 2], data=[]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, data=["a", "b"]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, data=[[1], [2, 3]]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, data=[None, 1]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, data=[10**400, 1]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, data=[0, 3]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, data=[0, float("nan")]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, data=[0, -1]), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, parameters={"binary_data_size": 8}), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, parameters={"binary_data_size": -8}), 400),
    ("/v2/models/table/infer", inputs_of(COLUMNS, parameters={"binary_data_size": 1.5}), 400),
    ("/v2/models/lstm/infer", inputs_of(TOKENS), 400),
    ("/v2/models/lstm/infer", inputs_of(TOKENS, {**LENGTHS, "data": [3]}), 400),
    ("/v2/models/lstm/infer", inputs_of(TOKENS, {**LENGTHS, "data": [0]}), 400),
    ("/v2/models/lstm/infer", inputs_of(TOKENS, {**LENGTHS, "shape": [2], "data": [1, 1]}), 400),
    ("/v2/models/lstm/infer", inputs_of(TOKENS, LENGTHS, data=[1, 99]), 400),
    ("/v2/models/lstm/infer", inputs_of(TOKENS, LENGTHS, data=[1, -1]), 400),
    ("/v2/models/lstm/infer", inputs_of(TOKENS, LENGTHS, data=[1, 2**70]), 400),
    ("/v2/models/lstm/infer", inputs_of(TOKENS, LENGTHS, data=[1.5, 1]), 400),
    ("/v2/models/lstm/infer", inputs_of(TOKENS, LENGTHS, shape=[1, 0], data=[]), 400),
    ("/v2/models/lstm/infer", inputs_of(TOKENS, LENGTHS, shape=[1, 99], data=[1] * 99), 400),
    ("/elsewhere", b"", 404),
    ("/v2/health/live", b"", 405),
]


@pytest.mark.parametrize(("path", "body", "status"), MALFORMED)
def test_malformed_requests_are_refused_with_the_reason(
    client: Client, path: str, body: Any, status: int
) -> None:
    reply = client.post(path, body)
    assert reply.status == status, reply.body
    said = reply.json.get("error") or reply.json["failed"][0]["error"]
    assert "upload-" not in reply.body.decode()
    assert said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('[{"c": "NaN", "n": NaN}]', "NaN is no JSON number (character 19): null is a missing value"),
        ('[{"n": -Infinity}]', "-Infinity is no JSON number (character 7)"),
        ('[{"n": 1, "c": "x"}, {"n": 1e400}]', "row 1: 'n' is beyond float64"),
        ('[{"c": "x", "n": [3]}]', "row 0: 'n' is a list: [3]"),
        ('[{"n": {"a": 1}}]', "row 0: 'n' is an object"),
        ("[{}]", "the rows have no columns"),
        ("null", "row 0 is null, and a row is an object of columns"),
        ('[{"n": 1}]', "body has no column 'c' (the model was trained on it)"),
    ],
)
def test_a_refused_row_names_the_cell(client: Client, body: str, said: str) -> None:
    assert said in client.post("/predict?model=table", body).json["error"]


def test_true_among_numbers_is_a_missing_cell_with_a_warning(client: Client) -> None:
    rows = [{"n": 0.5, "c": "x"}, {"n": True, "c": "x"}, {"n": None, "c": "x"}]
    reply = client.post("/predict?model=table&probabilities=true", rows).json
    assert any("'true'" in each for each in reply["warnings"])
    first, wrong, missing = (row["probabilities"] for row in reply["predictions"])
    assert wrong == missing != first


def test_a_row_without_a_column_is_told_what_it_has_and_what_is_needed(client: Client) -> None:
    hint = client.post("/predict?model=table", [{"n": 1}]).json["hint"]
    assert hint == "it has 'n'; needed are 'n', 'c'"


def test_a_request_that_names_none_of_several_models_gets_their_names(client: Client) -> None:
    assert all(name in client.post("/predict", b"x").json["error"] for name in NAMES)


def test_a_deleted_file_is_logged_once_and_served_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reload, "_POLL_S", 0.01)
    shutil.copy(folder / "table.safetensors", tmp_path / "m.safetensors")
    logged = ""
    with running(tmp_path / "m.safetensors") as served:
        (tmp_path / "m.safetensors").unlink()
        deadline = time.monotonic() + 10
        while "is gone" not in logged and time.monotonic() < deadline:
            time.sleep(0.01)
            logged += capfd.readouterr().err
        time.sleep(0.1)  # ten more looks
        assert served.post("/predict", [{"n": 1, "c": "x"}]).status == 200
    assert (logged + capfd.readouterr().err).count("is gone") == 1


def test_bodies_are_limited_before_and_after_decompression(folder: Path, client: Client) -> None:
    photo = (folder / "photo.png").read_bytes()
    packed = {"content-encoding": "gzip"}
    plain = client.post("/predict?model=cnn", photo)
    assert client.post("/predict?model=cnn", gzip.compress(photo), packed).body == plain.body
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 500_000
    assert client.post("/predict?model=cnn", bomb, packed).status == 413
    assert client.post("/predict?model=cnn", bytes(600_000)).status == 413
    assert client.post("/predict?model=cnn", photo, packed).status == 400
    assert client.post("/predict?model=cnn", gzip.compress(photo)[:-20], packed).status == 400
    assert client.post("/predict?model=cnn", photo, {"content-encoding": "br"}).status == 415
    with io.BytesIO() as file:
        Image.new("1", (10_000, 10_000)).save(file, "PNG")
        huge = client.post("/predict?model=cnn", file.getvalue())
    assert huge.status == 400
    assert "89478485 pixels allowed" in huge.json["failed"][0]["error"]


def test_a_form_brings_several_files(folder: Path, client: Client) -> None:
    photo = (folder / "photo.png").read_bytes()
    parts = b""
    for name, data in (("a.png", photo), ("../b.png", b"no image")):
        parts += f'--x\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()
        parts += data + b"\r\n"
    form = {"content-type": "multipart/form-data; boundary=x"}
    reply = client.post("/predict?model=cnn", parts + b"--x--\r\n", form)
    assert reply.status == 200
    assert [row["input"] for row in reply.json["predictions"]] == ["a.png"]
    assert [row["input"] for row in reply.json["failed"]] == ["../b.png"]
    assert client.post("/predict?model=cnn", b"--y", form).status == 400


def test_what_a_server_tells_of_itself(folder: Path, client: Client) -> None:
    client.post("/predict?model=cnn", (folder / "photo.png").read_bytes())
    text = client.get("/metrics").body.decode()
    assert 'dlcli_requests_total{endpoint="predict",method="POST",status="200"}' in text
    assert 'dlcli_batch_samples_count{model="cnn",version="1"}' in text
    document = client.get("/openapi.json").json
    assert document["openapi"].startswith("3.1")
    served = {path.replace("{name}", "cnn").replace("{version}", "1") for path in document["paths"]}
    for path in served:
        assert client.get(path).status in (200, 405), path
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert b'"name": "cnn"' in page.body


def test_a_token_is_needed_where_one_is_set(folder: Path) -> None:
    with running(folder / "table.safetensors", token="secret") as client:
        assert client.get("/v2/health/ready").status == 200
        assert client.get("/").status == 200
        assert client.get("/v2/models/table").status == 401
        assert client.post("/predict", [{"n": 1, "c": "x"}]).status == 401
        given = {"authorization": "Bearer secret"}
        assert client.post("/predict", [{"n": 1, "c": "x"}], given).status == 200
        assert client.get("/metrics", {"authorization": "Bearer other"}).status == 401


def test_more_requests_than_allowed_are_asked_to_come_again(folder: Path) -> None:
    with (
        running(folder / "table.safetensors", max_queue=1, timeout_s=1) as client,
        socket.create_connection((client.host, client.port), timeout=10) as slow,
    ):
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        deadline = time.monotonic() + 5
        while (reply := client.post("/predict", [{"n": 1, "c": "x"}])).status != 429:
            assert time.monotonic() < deadline
        assert reply.headers["retry-after"] == "1"
        assert slow.recv(100).startswith(b"HTTP/1.1 408")  # its body never came
        assert client.post("/predict", [{"n": 1, "c": "x"}]).status == 200


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nX: " + b"y" * 99_000]
)
def test_a_client_that_sends_no_head_is_let_go(folder: Path, sent: bytes) -> None:
    with (
        running(folder / "table.safetensors", timeout_s=1) as client,
        socket.create_connection((client.host, client.port), timeout=10) as slow,
    ):
        slow.sendall(sent)
        if not sent:
            slow.shutdown(socket.SHUT_WR)
        while slow.recv(1000):
            pass


def test_a_classifier_abstains_below_the_confidence(folder: Path) -> None:
    photo = (folder / "photo.png").read_bytes()
    with running(folder / "cnn.safetensors", min_confidence=1) as client:
        row = client.post("/predict", photo).json["predictions"][0]
        assert row["label"] is None
        assert row["abstained"] is True
        assert (
            client.post("/predict?format=csv", photo)
            .body.splitlines()[0]
            .startswith(b"input,abstained,")
        )


def test_a_changed_file_is_served_once_it_agrees(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_POLL_S", 0.02)
    served = tmp_path / "m.safetensors"
    shutil.copy(folder / "table.safetensors", served)
    rows = [{"n": 1, "c": "x"}]

    def replace(name: str, task: TaskSpec, shift: float) -> None:
        spec, _ = tiny.MODELS[name]
        module = tiny.build(name)
        for parameter in module.parameters():
            parameter.data += shift
        save_model(tmp_path / "new", module, Card(model=spec, task=task))
        (tmp_path / "new").replace(served)

    def until(client: Client, result: str) -> None:
        deadline = time.monotonic() + 10
        while (
            f'dlcli_reloads_total{{model="m",result="{result}"}}'
            not in client.get("/metrics").body.decode()
        ):
            assert time.monotonic() < deadline

    task = tiny.MODELS["table"][1]
    with running(served) as client:
        before = client.post("/predict", rows).json
        first = client.get("/v2/models/m").json["parameters"]["sha256"]
        served.write_bytes(b"half of a file")
        until(client, "unreadable")
        replace("table", task, -3.0)
        until(client, "refused")
        assert client.post("/predict", rows).json == before
        replace("table", task, 1e-7)
        until(client, "served")
        assert client.get("/v2/models/m").json["parameters"]["sha256"] != first
        after = client.post("/predict", rows).json["predictions"][0]["probabilities"]
        assert after == pytest.approx(before["predictions"][0]["probabilities"], abs=1e-4)
