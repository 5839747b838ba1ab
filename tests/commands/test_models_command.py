"""``dlcli models``: published weights, whether they are in torch's cache, and their size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlcli.cli import main
from dlcli.commands.models import _cached
from dlcli.ui.models import print_models
from dlcli.zoo.base import find_model
from dlcli.zoo.weights import cache_file


def test_weights_are_known_cached_and_of_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = find_model("squeezenet1_1", "image").weights
    assert weights is not None

    def shown(name: str) -> dict[str, object] | None:
        assert main(["models", name, "--json"]) == 0
        facts: dict[str, object] | None = json.loads(capsys.readouterr().out)["weights"]
        return facts

    known = {"label": weights.label, "url": weights.url}
    assert shown("squeezenet1_1") == {**known, "cached": None, "bytes": weights.size}
    assert weights.size is not None
    assert 4e6 < weights.size < 6e6  # 1.2 million float32
    assert shown("cnn") is None
    names = ["squeezenet1_0", "squeezenet1_1"]
    assert _cached(names) == {}
    path = cache_file(weights)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"12345")
    assert shown("squeezenet1_1") == {**known, "cached": str(path), "bytes": 5}
    assert _cached(names) == {"squeezenet1_1": 5}
    print_models([], {"torchvision": names}, _cached(names), {})
    assert "weights in the cache: squeezenet1_1 (5 B)" in capsys.readouterr().out
