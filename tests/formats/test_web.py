"""A model in a browser: its folder, what is refused, and that Chromium predicts what dlcli does."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import chromium, show, violations
from histories import HISTORY_TASK, histories
from odd_texts import ODD_TEXTS
from PIL import Image

from dlcli.card import Card, ModelSpec
from dlcli.cli import main
from dlcli.config import ExportConfig
from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.data.text.tokens import encode
from dlcli.evaluation.predict import predict
from dlcli.formats.base import FORMATS, Artifact, open_artifact, read_card
from dlcli.formats.checkpoint import save_model
from dlcli.formats.web.format import unfit
from dlcli.task import SeriesScale, TaskSpec, TextInput
from dlcli.zoo.base import build_model
from tests.helpers import tiny

WEB = FORMATS.get("web")


@pytest.mark.parametrize("name", list(tiny.MODELS))
def test_what_a_browser_cannot_prepare_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    card = tiny.artifact(tmp_path, name).card
    spec = card.task.input
    own = isinstance(spec, TextInput) and spec.tokenizer != "file" and not spec.pair
    if spec.kind in ("image", "tabular", "series") or own:
        assert not unfit(card)
    else:
        words = ("not written for", "for images, tables, texts and series", "tokenizers library")
        assert any(word in unfit(card) for word in words)


def test_a_runtime_that_is_added_is_no_damage(tmp_path: Path) -> None:
    assert WEB.write is not None
    path = tmp_path / "best.web"
    WEB.write(tiny.artifact(tmp_path / "source", "cnn"), path, ExportConfig())
    (path / "ort").mkdir()
    (path / "ort" / "ort.wasm.min.mjs").write_text("")
    assert WEB.verify(path)
    open_artifact(path, device="cpu")
    facts = json.loads((path / "model.json").read_text())
    assert facts["classes"] == list(read_card(path).task.class_names)
    assert f'"name": "{facts["name"]}"' in (path / "index.html").read_text()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that logs nothing."""

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The address of the test's folder on this machine."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def exported(folder: Path, *argv: str) -> Path:
    """The web export of a run that is trained here, with onnxruntime-web in it."""
    runtime = os.environ.get("DLCLI_ORT_WEB")
    if not runtime:
        pytest.skip("DLCLI_ORT_WEB does not name onnxruntime-web's files: .ci/fetch-for-browser")
    assert (
        main(["train", *argv, "--epochs", "2", "--runs-dir", str(folder), "--name", "r", "--quiet"]) == 0
    )
    assert main(["export", str(folder / "r"), "--format", "web", "--quiet"]) == 0
    path = folder / "r" / "best.web"
    shutil.copytree(runtime, path / "ort")
    return path


def run_in(browser: Any, expression: str, *values: Any) -> Any:
    """What an asynchronous JavaScript expression gives, with ``values`` as its arguments."""
    script = f"""const done = arguments[arguments.length - 1];
        ({expression})(...arguments).then(done, (error) => done("error: " + error.message));"""
    return browser.execute_async_script(script, *values)


def keep_picture(browser: Any, name: str) -> None:
    """A picture of the page in the folder that ``DLCLI_PICTURES`` names, to look at."""
    if folder := os.environ.get("DLCLI_PICTURES"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def asked(browser: Any) -> list[str]:
    """The lines of the page's answer, after a click on its button."""
    browser.find_element("css selector", "button[type=submit]").click()
    waiting = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(browser, 20)
    waiting.until(lambda _: "In this browser" in browser.find_element("id", "result").text)
    return str(browser.find_element("id", "result").text).splitlines()


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_photos_are_predicted_as_by_predict(
    browser: Any, url: str, tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """PNGs of several sizes, which every decoder reads alike: probabilities up to rounding."""
    rng = np.random.default_rng(0)
    for number in range(24):
        height, width = rng.integers(20, 60, 2)
        shade = np.linspace(0, 255, width) if number % 2 else np.linspace(255, 0, width)
        pixels = np.clip(shade + rng.normal(0, 40, (height, width)), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels).convert("RGB") if mode == "RGB" else Image.fromarray(pixels)
        place = tmp_path / "photos" / ("left", "right")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)
    exported(tmp_path, "--model", "cnn", "--data", str(tmp_path / "photos"), "--img-size", "16")
    files = sorted((tmp_path / "photos").rglob("*.png"))
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "r"), *map(str, files), "--json", "--top-k", "2"]) == 0
    expected = json.loads(capsys.readouterr().out)["predictions"]
    show(browser, f"{url}r/best.web/index.html")
    paths = [f"/{file.relative_to(tmp_path).as_posix()}" for file in files]
    replies = run_in(
        browser,
        """async (paths) => {
            const model = await (await import("./predict.js")).load();
            const blob = async (path) => (await fetch(path)).blob();
            const one = async (path) => (await model.predict(await blob(path))).predictions[0];
            return Promise.all(paths.map(one));
        }""",
        paths,
    )
    assert len(replies) == len(expected) == 24
    for reply, row in zip(replies, expected, strict=True):
        assert reply["label"] == row["label"]
        for seen, known in zip(reply["top_k"], row["top_k"], strict=True):
            assert abs(seen["probability"] - known["probability"]) < 2e-3
    browser.find_element("id", "photo").send_keys(str(files[0]))
    waiting = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(browser, 20)
    waiting.until(lambda _: "In this browser" in browser.find_element("id", "result").text)
    assert expected[0]["label"] in browser.find_element("id", "result").text
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not violations(browser)


@pytest.mark.browser
def test_rows_are_predicted_as_by_predict(
    browser: Any, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    lines = [
        f"{rng.normal() if i % 7 else ''},{('Rome', 'Oslo', '')[i % 3]},{i % 50}\n" for i in range(200)
    ]
    (tmp_path / "t.csv").write_text("area,town,price\n" + "".join(lines))
    path = exported(tmp_path, "--model", "mlp", "--data", str(tmp_path / "t.csv"), "--target", "price")
    rows = [{"area": 0.5, "town": "Rome"}, {"area": None, "town": "Oslo"}, {"area": -2, "town": None}]
    (tmp_path / "new.csv").write_text("area,town\n0.5,Rome\n,Oslo\n-2,\n")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "r"), str(tmp_path / "new.csv"), "--json"]) == 0
    expected = [row["value"] for row in json.loads(capsys.readouterr().out)["predictions"]]
    call = 'async (rows) => (await (await import("./predict.js")).load()).predict(rows)'
    (path / "ort").rename(path / "later")
    show(browser, f"{url}r/{path.name}/index.html")
    assert "npm pack onnxruntime-web" in run_in(browser, call, rows)
    (path / "later").rename(path / "ort")
    show(browser, f"{url}r/{path.name}/index.html")
    reply = run_in(browser, call, rows)
    np.testing.assert_allclose([row["value"] for row in reply["predictions"]], expected, rtol=1e-5)
    assert "unknown column 'are'" in run_in(browser, call, {"are": 1})
    assert "'x' in area is no number" in run_in(browser, call, {"area": "x"})
    browser.find_element("id", "area").send_keys('area,town\n"0.5",Rome\n,Oslo\n-2,\n')
    shown = asked(browser)
    assert [float(f"{value:.6g}") for value in expected] == [float(line) for line in shown[:3]]
    assert not violations(browser)
    keep_picture(browser, "rows")


@pytest.mark.browser
@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_texts_are_predicted_as_by_predict(
    browser: Any, url: str, tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the ids of each text, of any script."""
    words = {"place": "the capital of Peru caf\u00e9 \u6771\u4eac", "count": "how many 1.50 pay don't"}
    lines = [f"{text} {i % 7},{label}\n" for i in range(40) for label, text in words.items()]
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")
    path = exported(
        *(tmp_path, "--model", "lstm", "--data", str(tmp_path / "t.csv")),
        *("--kind", "text", "--tokenizer", tokenizer, "--set", "data.vocab_size=400"),
    )
    spec = read_card(path).task.input
    assert isinstance(spec, TextInput)
    expected_ids = [encode(text, spec).tolist() for text in ODD_TEXTS]
    show(browser, f"{url}r/{path.name}/index.html")
    ids = run_in(
        browser,
        """async (texts) => {
            const { encode } = await import("./tokens.js");
            const { tokenizer } = await (await fetch("./model.json")).json();
            return texts.map((text) => encode(text, tokenizer));
        }""",
        ODD_TEXTS,
    )
    assert ids == expected_ids
    texts = [text for text in ODD_TEXTS if text.strip() == text != ""]
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "r"), *texts, "--json", "--top-k", "2"]) == 0
    expected = json.loads(capsys.readouterr().out)["predictions"]
    call = 'async (texts) => (await (await import("./predict.js")).load()).predict(texts)'
    replies = run_in(browser, call, texts)["predictions"]
    assert [reply["label"] for reply in replies] == [row["label"] for row in expected]
    for reply, row in zip(replies, expected, strict=True):
        assert abs(reply["top_k"][0]["probability"] - row["top_k"][0]["probability"]) < 1e-4
    browser.find_element("id", "area").send_keys(texts[0])
    assert expected[0]["label"] in asked(browser)
    assert not violations(browser)


def written(folder: Path, model: str, task: TaskSpec) -> Artifact:
    """An untrained model of a task; its web export is ``best.web``, with onnxruntime-web in it."""
    runtime = os.environ.get("DLCLI_ORT_WEB")
    if not runtime:
        pytest.skip("DLCLI_ORT_WEB does not name onnxruntime-web's files: .ci/fetch-for-browser")
    card = Card(model=ModelSpec(name=model), task=task)
    save_model(folder / "m.safetensors", build_model(card.model, task).eval(), card)
    source = open_artifact(folder / "m.safetensors", device="cpu")
    assert WEB.write is not None
    WEB.write(source, folder / "best.web", ExportConfig())
    shutil.copytree(runtime, folder / "best.web" / "ort")
    return source


def answers(source: Artifact, path: Path) -> list[Any]:
    """What `predict` says of the samples of a file."""
    task = source.card.task
    reader = kind_of(task).reader(kind_of(task).inputs([str(path)], task), task, ReadOptions())
    return [row for one in predict(source.predict, reader, task, top_k=3) for row in one.rows]


CALL = 'async (input) => (await (await import("./predict.js")).load()).predict(input)'


@pytest.mark.browser
@pytest.mark.parametrize("varies", [True, False])
def test_series_are_predicted_as_by_predict(
    browser: Any, url: str, tmp_path: Path, varies: bool
) -> None:
    """With gaps, and a channel without a value: classes of unequal lengths, numbers of one length."""
    scales: dict[str, Any] = {"mean": (1.0, -1.0), "std": (2.0, 0.5)}
    spec = tiny.series("uv", 12, varies=varies, **scales)
    task = tiny.make_task(spec, "classification" if varies else "regression")
    source = written(tmp_path, "gru" if varies else "mlp", task)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 12, 2))
    values[rng.random(values.shape) < 0.3] = np.nan
    values[0, :, 1] = np.nan
    values[:, -1, 0] = 0.0
    if varies:
        values[1, 7:] = np.nan
    np.save(tmp_path / "x.npy", values)
    expected = answers(source, tmp_path / "x.npy")
    show(browser, f"{url}best.web/index.html")
    for x, row in zip(values, expected, strict=True):
        lines = ["u;v", *(";".join("" if np.isnan(v) else repr(float(v)) for v in step) for step in x)]
        (reply,) = run_in(browser, CALL, "\n".join(lines))["predictions"]
        cells = [[None if np.isnan(v) else float(v) for v in step] for step in x]
        assert run_in(browser, CALL, json.dumps(cells))["predictions"] == [reply]
        if not varies:
            assert reply["value"] == pytest.approx(row["value"], abs=1e-5)
            continue
        assert reply["label"] == row["label"]
        for seen, known in zip(reply["top_k"], row["top_k"], strict=True):
            assert seen["probability"] == pytest.approx(known["probability"], abs=1e-5)
    for text, reason in (
        ("1,2,3", "reads 2 channels"),
        ("1,x\n2,y", "'x' in row 1 is no number"),
        ("?,\n", "no values"),
    ):
        assert reason in run_in(browser, CALL, text) or not varies
    browser.find_element("id", "area").send_keys("\n".join(lines))
    first = asked(browser)[0]
    assert first == reply["label"] if varies else float(first) == float(f"{reply['value']:.6g}")
    assert not violations(browser)
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    keep_picture(browser, f"series-{task.kind}")


@pytest.mark.browser
@pytest.mark.parametrize("several", [False, True])
def test_forecasts_are_predicted_as_by_predict(
    browser: Any, url: str, tmp_path: Path, several: bool
) -> None:
    """The rows newest first, with gaps; several series have scales of their own, one of them unseen."""
    fields: dict[str, Any] = {"mean": (5.0, -1.0), "std": (2.0, 3.0)}
    if several:
        scale = SeriesScale(id="a/1", mean=(5.0, 2.0), std=(4.0, 0.5))
        fields = {"series": (scale,), "series_column": "shop,size"}
    task = tiny.make_task(tiny.series("uv", 6, **fields), "forecast", targets=("v", "u"), horizon=3)
    source = written(tmp_path, "linear", task)
    rng = np.random.default_rng(0)
    lines = [
        f"2024-01-{day:02},{rng.normal() if day % 4 else ''},{'NA' if day < 3 else day},{shop},{size}"
        for shop, size in (("a", 1), ("b", 2))[: 1 + several]
        for day in range(20, 0, -1)
    ]
    table = tmp_path / "history.csv"
    table.write_text("day,u,v,shop,size\n" + "\n".join(lines) + "\n")
    expected = answers(source, table)
    show(browser, f"{url}best.web/index.html")
    replies = run_in(browser, CALL, table.read_text())["predictions"]
    assert len(replies) == len(expected) == 3 * (1 + several)
    for reply, row in zip(replies, expected, strict=True):
        assert (reply["step"], reply.get("series")) == (row["step"], row.get("series"))
        assert reply["values"] == pytest.approx(row["values"], abs=1e-5)
    head, rows = "day,u,v,shop,size\n", "2024-01-01,1,2,a,1\n"
    nine = "".join(rows.replace("-01,", f"-{day:02},") for day in range(1, 10))
    for text, reason in (
        (head + rows, "the model reads 6"),
        (head + nine.replace(",1,2", ',"1,5",2'), "'1,5' in u is no number"),
        (head + rows.replace("2024-01-01", "31.1.2024") * 9, "is not written as 2024-01-31"),
        (head + nine.replace(",1,2", ",1,"), "'v' has no value"),
        ("u\n1\n", "there is no column 'v'"),
    ):
        assert reason in run_in(browser, CALL, text)
    browser.find_element("id", "area").send_keys(table.read_text())
    shown = " ".join(asked(browser))
    for row in expected:
        assert all(f"{value:.5g}"[:5] in shown for value in row["values"].values())
    assert not violations(browser)
    keep_picture(browser, f"forecast-{'several' if several else 'one'}")


@pytest.mark.browser
def test_the_time_column_is_that_of_predict(browser: Any, url: str, tmp_path: Path) -> None:
    source = written(tmp_path, "linear", HISTORY_TASK)
    show(browser, f"{url}best.web/index.html")
    for text in histories():
        (tmp_path / "history.csv").write_text(text)
        expected = [row["value"] for row in answers(source, tmp_path / "history.csv")]
        reply = run_in(browser, CALL, text)["predictions"]
        assert [row["value"] for row in reply] == pytest.approx(expected, abs=1e-5), text
    for text, reason in (
        ("[]", "no column 'u'"),
        ("[1]", "rows with named cells"),
        ("ds,constructor\n1,2\n", "no column 'u'"),
        ("day,time,u,ds\n" + "2024-01-01,10:00,1,2\n" * 9, "the times of time in day"),
        ("date,u,ds\n" + "2024-01-01,1,2\n,1,2\n" * 5, "is not written as 2024-01-31"),
        ("time,u,ds\n" + "".join(f"{i * 7 % 9},1,2\n" for i in range(9)), "time rises and falls"),
        ("day,u,ds\n" + "2024-01-01,1,2\n" * 8, "name the series"),
        ("u,ds\n1e50,2\n" + "1,2\n" * 7, "overflows"),
    ):
        assert reason in run_in(browser, CALL, text)


@pytest.mark.browser
def test_cells_count_by_their_names(browser: Any, url: str, tmp_path: Path) -> None:
    """Also names that every JavaScript object has."""
    series = """async (rows, spec) => (await import("./series.js")).whole(rows, spec).values.join()"""
    written(tmp_path, "linear", HISTORY_TASK)
    show(browser, f"{url}best.web/index.html")
    spec = {"channels": ["b", "a"], "mean": [0, 0], "std": [1, 1], "length": 2, "varies": True}
    for rows in (
        [["a", "b"], ["10", "20"], ["1e999", "21"]],
        [{"a": 10, "b": 20}, {"b": 21, "a": None}],
        [["20", "10"], ["21", "10"]],
        [["x", "y"], ["20", "10"], ["21", "10"]],  # other names: by position
    ):
        assert run_in(browser, series, rows, spec) == "20,10,21,10", rows
    for rows, reason in (
        ([], "no values"),
        ([{"b": 1, "c": 2}], "there is no 'a' among b, c"),
        ([["a", "b"], ["1"]], "row 1 has 1 cells, the header 2"),
    ):
        assert reason in run_in(browser, series, rows, spec)
    own = {"channels": ["u"], "mean": [0], "std": [1], "length": 2, "series_column": "shop"}
    own["series"] = {"a": {"mean": [0], "std": [1]}}
    windows = """async (rows, spec) => {
        const { windows } = await import("./series.js");
        return windows(rows, spec, ["u"]).map((one) => one.mean[0]);
    }"""
    rows = [{"shop": shop, "u": u} for shop in ("constructor", "__proto__", "a") for u in (1, 3)]
    assert run_in(browser, windows, rows, own) == [2, 2, 0]
