"""Models that branch on values: compiled with both branches, or traced with one, and then it is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dlcli.card import Card, ModelSpec
from dlcli.config import ExportSettings, MeasureConfig
from dlcli.deploy.export import export
from dlcli.formats.base import FORMATS, open_artifact
from dlcli.formats.checkpoint import save_model
from dlcli.task import NumberColumn, TabularInput, TargetNumber, TaskSpec
from dlcli.ui.export import print_export
from dlcli.zoo.base import build_model, find_model

pytestmark = pytest.mark.usefixtures("trusted")

TASK = TaskSpec(
    kind="regression",
    input=TabularInput(numbers=(NumberColumn(name="a"), NumberColumn(name="b"))),
    targets=(TargetNumber(name="y"),),
)
CODE = """
from torch import nn

class Compiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(2, 1)
    def forward(self, x):
        if x.mean() > 100:
            x = -x
        return self.last(x)

class Traced(Compiled):
    def forward(self, x):
        return super().forward(x) * {1: 1.0}[1 + int(x.mean() > 100)]  # no compiler reads this
"""


@pytest.mark.parametrize("name", ["Compiled", "Traced"])
def test_a_branch_is_in_the_file_or_the_verdict_names_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(CODE)
    card = Card(model=ModelSpec(name=find_model(f"{tmp_path}/net.py:{name}", "tabular").name), task=TASK)
    model = build_model(card.model, TASK)
    save_model(tmp_path / "best.safetensors", model, card)
    settings = ExportSettings(measure=MeasureConfig(latency=False))
    target = tmp_path / "best.torchscript"
    result = export(
        tmp_path / "best.safetensors", target, FORMATS.get("torchscript"), settings, verify=True
    )
    assert result.ok
    assert result.parity is not None
    print_export(result, [])
    shown = " ".join(capsys.readouterr().out.split())
    if name == "Traced":
        assert len(result.parity.one_branch) == 2
        assert result.parity.one_branch[0].startswith("net.py line 9: if x.mean() > 100")
        assert "ONE BRANCH ONLY: the samples compared all went one way at net.py line 9: if" in shown
        return
    assert result.parity.one_branch == ()
    assert "ONE BRANCH" not in shown
    large = np.full((1, 2), 1000.0, np.float32)
    outputs = open_artifact(target, device="cpu").predict((large,))
    assert np.allclose(outputs, model.eval()(torch.from_numpy(large)).detach().numpy())
