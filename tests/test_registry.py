"""An extension is one new file: discovery finds it, and nothing else has to be touched."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlcli.data.kinds import KINDS
from dlcli.errors import UsageError, nearest
from dlcli.formats.base import FORMATS
from dlcli.registry import Registry
from dlcli.zoo.base import MODELS

NEW_MODEL = """
from torch import nn
from dlcli.zoo.base import ModelEntry, register

class Tiny(nn.Sequential):
    def __init__(self, task):
        super().__init__(nn.Flatten(), nn.LazyLinear(task.num_classes))

register(
    ModelEntry(name="tiny-of-a-test", build=lambda task, args: Tiny(task), head=lambda module: "1")
)
"""


@pytest.fixture
def extended_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The zoo with one more file in its folder, and as it was afterwards."""
    import dlcli.zoo

    MODELS.names()
    (tmp_path / "a_new_model.py").write_text(NEW_MODEL)
    monkeypatch.setattr(dlcli.zoo, "__path__", [*dlcli.zoo.__path__, str(tmp_path)])
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    monkeypatch.setattr(MODELS, "_discovered", False)
    yield
    sys.modules.pop("dlcli.zoo.a_new_model", None)


@pytest.mark.usefixtures("extended_zoo")
def test_one_new_file_is_a_new_model() -> None:
    from dlcli.zoo.base import find_model

    assert find_model("tiny-of-a-test", "image").name == "tiny-of-a-test"
    assert "image/cnn" in MODELS.names()


def test_what_is_registered_has_its_own_name() -> None:
    for registry in (KINDS, FORMATS):
        assert registry.names()
        for name, entry in registry.entries():
            assert entry.name == name  # type: ignore[attr-defined]
    for name, model in MODELS.entries():
        assert f"{model.kind}/{model.name}" == name
        assert model.summary


def test_a_name_is_given_once() -> None:
    registry: Registry[int] = Registry("thing", "dlcli.zoo")
    registry.register("a")(1)
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        registry.register("a")(2)
    with pytest.raises(UsageError, match="unknown thing 'b'"):
        registry.get("b")


def test_a_hint_names_what_is_close_or_what_there_is() -> None:
    assert nearest("resnt18", ["resnet18", "vgg11"]) == "did you mean 'resnet18'?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
    assert nearest("zzz", [f"name{i}" for i in range(30)]).startswith("30 names are known")
