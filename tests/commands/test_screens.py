"""What screens say, and what they leave unsaid, over a run's life."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlcli.cli import main


def test_what_is_normal_is_a_note_of_train_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column named target, and classes of 0 and 1, are how tables are."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 7 / 7},{i % 5 / 5},{int(i % 7 > i % 5)}" for i in range(60)]
    Path("t.csv").write_text("x,y,target\n" + "\n".join(rows) + "\n")
    train = ["train", "--model", "mlp", "--data", "t.csv", "--device", "cpu", "--max-steps", "2"]
    assert main(train) == 0
    shown = capsys.readouterr()
    assert "warning" not in shown.err
    assert shown.err.count("'target' is the target, by its name") == 1
    assert "note" in shown.err
    lines = [line.split(maxsplit=1) for line in shown.out.splitlines()]
    assert ["next", "dlcli eval"] in lines
    assert ["dlcli", "predict FILE"] in lines  # each command on a line of its own
    assert ["dlcli", "export --onnx"] in lines
    for args in (["eval"], ["predict", "t.csv"], ["export", "--format", "pth", "--no-latency"]):
        assert main(args) == 0
        assert "by its name" not in capsys.readouterr().err
