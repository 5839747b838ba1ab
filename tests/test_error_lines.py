"""Error lines hold no byte that a terminal would obey."""

from __future__ import annotations

import pytest

from dlcli.cli import main


def test_names_in_errors_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "\x1b[2Jx.safetensors"]) == 1
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "x1b[2Jx.safetensors" in err
