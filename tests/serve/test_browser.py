"""The page of a server in headless Chromium: each kind of input is predicted, axe-core finds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from browsing import chromium, show, violations
from PIL import Image
from serving import Client, running

from dlcli.card import Card
from dlcli.formats.checkpoint import save_model

pytestmark = pytest.mark.browser
TYPED = {"lstm": "1 2 3", "seq2seq": "1 2 3", "forecast": "u,v\n" + "0.5,1\n1.5,2\n" * 10}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root = tmp_path_factory.mktemp("served")
    for name in ("cnn", "table", *TYPED, "tensors"):
        tiny.save(root, name)
    spec, task = tiny.MODELS["lstm"]
    texts = task.input.model_copy(update={"pair": True, "column": "premise,hypothesis"})
    card = Card(model=spec, task=task.model_copy(update={"input": texts}))
    save_model(root / "texts.safetensors", tiny.build("lstm"), card)
    Image.new("RGB", (20, 30), "red").save(root / "photo.png")
    names = ("cnn", "table", *TYPED, "tensors", "texts")
    with running(*(root / f"{name}.safetensors" for name in names)) as one:
        yield one


def predict(browser: Any, client: Client, name: str, root: Path, scheme: str, width: int) -> str:
    """Open the page, choose a model, give it an input, and return what the page then shows of it."""
    waiting = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(browser, 20)
    show(browser, f"http://{client.host}:{client.port}/", width=width, scheme=scheme)
    browser.find_element("css selector", f"#model option[value='{index(browser, name)}']").click()
    if name == "cnn":
        browser.find_element("id", "photo").send_keys(str(root / "photo.png"))
    elif name in ("table", "texts"):
        browser.find_element("id", "column-0").send_keys("0.5")
    else:
        browser.find_element("id", "area").send_keys(TYPED[name])
    if name != "cnn":  # a photo is predicted when it is chosen
        browser.find_element("css selector", "button[type=submit]").click()
    result = browser.find_element("id", "result")
    waiting.until(lambda _: "HTTP" in result.text)
    return str(result.text)


def index(browser: Any, name: str) -> str:
    options = browser.find_elements("css selector", "#model option")
    return str(next(one.get_attribute("value") for one in options if one.text == name))


@pytest.mark.parametrize("name", ["cnn", "table", "texts", *TYPED])
def test_the_page_predicts(browser: Any, client: Client, name: str) -> None:
    root = client.models.all()[0].artifact.path.parent
    assert "HTTP 200" in predict(browser, client, name, root, "light", 1280)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_the_page_shows_warnings(browser: Any, client: Client) -> None:
    root = client.models.all()[0].artifact.path.parent
    predict(browser, client, "table", root, "light", 1280)
    browser.find_element("id", "column-0").send_keys("abc")
    browser.find_element("css selector", "button[type=submit]").click()
    waiting = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(browser, 20)
    waiting.until(lambda _: "Warning: " in browser.find_element("id", "result").text)
    assert violations(browser) == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_axe_core_finds_nothing(browser: Any, client: Client, width: int, scheme: str) -> None:
    root = client.models.all()[0].artifact.path.parent
    for name in ("cnn", "table", *TYPED):
        predict(browser, client, name, root, scheme, width)
        assert violations(browser) == [], name
